"""Compares answers with the expected ones. Pure: knows only a status and a body."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from stress.dataset import Expectations, ExpectedAnswer
from stress.errors import WrongAnswerError

__all__ = ["TOLERANCE", "check_refusal", "check_report", "check_scores"]

TOLERANCE = 1e-12
"""The largest allowed difference of a probability. One that was written and read with all its digits is equal."""

_EXCERPT = 120
Decoded = TypeVar("Decoded")


class _Answer(msgspec.Struct, gc=False):
    probability_positiveclass: float
    probability_predictedclass: float
    predicted_class: object


class _Problem(msgspec.Struct):
    row: int


class _Error(msgspec.Struct):
    code: str
    rows: list[_Problem] = []


class _ErrorObject(msgspec.Struct):
    error: _Error


_decode_answers = msgspec.json.Decoder(list[_Answer]).decode
_decode_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_error = msgspec.json.Decoder(_ErrorObject).decode


def check_scores(status: int, body: bytes, rows: Sequence[int], expected: Expectations) -> None:
    """Checks the answer to good rows, given by their numbers in the file of rows.

    Raises:
        WrongAnswerError: the status, the number of answers, a probability or a class is wrong.
    """
    _check_status(status, 200, body)
    answers = _decoded(_decode_answers, body, "the body is no array of answers")
    _check_length(len(answers), len(rows))
    for row, answer in zip(rows, answers, strict=True):
        _check_answer(row, answer, expected.answers[row], expected.classes)


def check_refusal(status: int, body: bytes, *, wanted: int, code: str, place: int | None) -> None:
    """Checks that a whole request was refused because of the row at ``place``, or because of no single row.

    Raises:
        WrongAnswerError: the request was not refused, or for another reason.
    """
    _check_status(status, wanted, body)
    _check_error(body, code, place)


def check_report(status: int, body: bytes, rows: Sequence[int], bad: Mapping[int, str], expected: Expectations) -> None:
    """Checks the answer to rows of which those at the places in ``bad`` must get the error with that code.

    Raises:
        WrongAnswerError: a good row lacks its expected answer, or a bad one its error object.
    """
    _check_status(status, 200, body)
    objects = _decoded(_decode_raws, body, "the body is no array")
    _check_length(len(objects), len(rows))
    for place, (row, raw) in enumerate(zip(rows, objects, strict=True)):
        if place in bad:
            _check_error(raw, bad[place], place)
        else:
            answer = _decoded(_decode_answer, raw, f"row {row} has no answer")
            _check_answer(row, answer, expected.answers[row], expected.classes)


def _decoded(decode: Callable[[bytes | msgspec.Raw], Decoded], body: bytes | msgspec.Raw, complaint: str) -> Decoded:
    try:
        return decode(body)
    except msgspec.DecodeError as error:
        raise WrongAnswerError(f"{complaint}: {error}") from error


def _check_status(status: int, wanted: int, body: bytes) -> None:
    if status != wanted:
        excerpt = body[:_EXCERPT].decode("utf-8", "replace")
        raise WrongAnswerError(f"status {status} instead of {wanted}: {excerpt}")


def _check_length(answers: int, rows: int) -> None:
    if answers != rows:
        raise WrongAnswerError(f"{answers} answers to {rows} rows")


def _check_answer(row: int, answer: _Answer, wanted: ExpectedAnswer, classes: Sequence[object]) -> None:
    predicted = answer.predicted_class
    if predicted != wanted.predicted_class:
        raise WrongAnswerError(f"row {row} is given class {predicted!r} instead of {wanted.predicted_class!r}")
    for name, found, right in (
        ("probability_positiveclass", answer.probability_positiveclass, wanted.probabilities[-1]),
        ("probability_predictedclass", answer.probability_predictedclass, wanted.probabilities[classes.index(predicted)]),
    ):
        if not abs(found - right) <= TOLERANCE:
            raise WrongAnswerError(f"row {row} has {name} {found!r} instead of {right!r}")


def _check_error(body: bytes | msgspec.Raw, code: str, place: int | None) -> None:
    error = _decoded(_decode_error, body, f"instead of {code} there is no error object").error
    found = error.rows[0].row if error.rows else None
    if error.code != code or found != place:
        raise WrongAnswerError(f"error {error.code} of row {found} instead of {code} of row {place}")
