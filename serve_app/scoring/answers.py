"""From probabilities to the JSON of the answers: one object per row, in order.

Owns the fields of an answer. Knows no HTTP and no model. Floats are written with all the digits that a float64 needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, repeat
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from serve_app.errors import FieldProblem
from serve_app.scoring.arrays import Array
from serve_app.scoring.explanation import Explanation
from serve_app.scoring.scorers import predicted_class_indices

__all__ = ["AnswerEncoder", "BadRow", "BinaryAnswer", "MulticlassAnswer"]

_ROWS_PER_PIECE = 2048  # about a millisecond of encoding: as long as another request may have to wait


Probability = Annotated[float, Meta(ge=0, le=1)]
# Encoded once for all answers; what the bytes are is only told to the OpenAPI document.
ColumnNames = Annotated[msgspec.Raw, Meta(extra_json_schema={"type": "array", "items": {"type": "string"}})]


class RowWarning(msgspec.Struct, frozen=True, gc=False):
    """Something unusual about one field of a row that was scored."""

    field: str
    code: str
    message: str


class BinaryAnswer(msgspec.Struct, omit_defaults=True, gc=False):
    """The answer to one row by a model of two classes. It has an explanation only if the request asked for one."""

    probability_positiveclass: Probability
    probability_predictedclass: Probability
    selected_features: ColumnNames
    predicted_class: Any
    warnings: list[RowWarning] = []
    explanation: Explanation | None = None


class MulticlassAnswer(msgspec.Struct, omit_defaults=True, gc=False):
    """The answer to one row by a model of three or more classes. It has an explanation only if the request asked for one."""

    probabilities: dict[str, Probability]
    probability_predictedclass: Probability
    selected_features: ColumnNames
    predicted_class: Any
    warnings: list[RowWarning] = []
    explanation: Explanation | None = None


class RowError(msgspec.Struct, frozen=True, gc=False):
    """Why one row could not be scored: code and message of its first problem, and all its problems."""

    code: str
    message: str
    rows: Sequence[FieldProblem]


class BadRow(msgspec.Struct, frozen=True, gc=False):
    """What replaces the answer to a row that could not be scored."""

    error: RowError


class AnswerEncoder:
    """Writes the answers of one model.

    Args:
        classes: the model's classes; of two classes, the positive one is the last.
        threshold: with two classes, the least probability at which a row counts as positive.
        selected_features: the raw columns that the model uses.
    """

    def __init__(self, *, classes: Sequence[Any], threshold: float, selected_features: Sequence[str]) -> None:
        self._classes = list(classes)
        self._class_names = [str(label) for label in classes]
        self._threshold = threshold
        self._selected_features = msgspec.Raw(msgspec.json.encode(list(selected_features)))  # the same in every answer
        self._encoder = msgspec.json.Encoder()

    def encode(
        self,
        probabilities: Array,
        warnings: Sequence[FieldProblem] = (),
        problems: Sequence[FieldProblem] = (),
        explanations: Sequence[Explanation] = (),
    ) -> Iterator[bytes]:
        """The JSON array of answers, in pieces, so that the caller can let others work between them.

        Args:
            probabilities: shape (good rows, classes).
            warnings: of good rows; their ``row`` counts all rows.
            problems: of the bad rows, each of which gets an error object instead of an answer.
            explanations: one for each good row, or none at all.
        """
        rows_with_warnings, bad_rows = _by_row(warnings), _by_row(problems)
        answers: Iterator[BinaryAnswer | MulticlassAnswer] = chain.from_iterable(
            self._answers(probabilities[start : start + _ROWS_PER_PIECE])
            for start in range(0, len(probabilities), _ROWS_PER_PIECE)
        )
        if explanations:
            answers = map(_explained, answers, explanations)
        rows = len(probabilities) + len(bad_rows)
        for start in range(0, rows, _ROWS_PER_PIECE):
            piece: list[BinaryAnswer | MulticlassAnswer | BadRow] = []
            for row in range(start, min(start + _ROWS_PER_PIECE, rows)):
                if row in bad_rows:
                    piece.append(_bad_row(bad_rows[row]))
                    continue
                answer = next(answers)
                if row in rows_with_warnings:
                    answer.warnings = [
                        RowWarning(str(warning.field), warning.code, warning.message) for warning in rows_with_warnings[row]
                    ]
                piece.append(answer)
            yield (b"," if start else b"[") + self._encoder.encode(piece)[1:-1]
        yield b"]" if rows else b"[]"

    def _answers(self, probabilities: Array) -> Iterator[BinaryAnswer | MulticlassAnswer]:
        indices = predicted_class_indices(probabilities, self._threshold)
        predicted = probabilities[np.arange(len(probabilities)), indices].tolist()
        features, classes = self._selected_features, self._classes
        labels = [classes[index] for index in indices.tolist()]
        if len(classes) == 2:
            return map(BinaryAnswer, probabilities[:, 1].tolist(), predicted, repeat(features), labels)
        by_class = (dict(zip(self._class_names, row, strict=True)) for row in probabilities.tolist())
        return map(MulticlassAnswer, by_class, predicted, repeat(features), labels)


def _explained(answer: BinaryAnswer | MulticlassAnswer, explanation: Explanation) -> BinaryAnswer | MulticlassAnswer:
    answer.explanation = explanation
    return answer


def _by_row(problems: Sequence[FieldProblem]) -> Mapping[int, list[FieldProblem]]:
    rows: dict[int, list[FieldProblem]] = {}
    for problem in problems:
        rows.setdefault(problem.row, []).append(problem)
    return rows


def _bad_row(problems: Sequence[FieldProblem]) -> BadRow:
    first = problems[0]
    return BadRow(RowError(first.code, first.message, problems))
