from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from stress.checks import check_refusal, check_report, check_scores
from stress.dataset import Dataset
from stress.errors import WrongAnswerError

Change = Callable[[dict[str, Any]], object]


def answer(dataset: Dataset, row: int) -> dict[str, Any]:
    """The right answer to a row, as the service writes it."""
    expected = dataset.expected.answers[row]
    return {
        "probability_positiveclass": expected.probabilities[1],
        "probability_predictedclass": expected.probabilities[dataset.expected.classes.index(expected.predicted_class)],
        "selected_features": ["x53"],
        "predicted_class": expected.predicted_class,
    }


def answers(dataset: Dataset, rows: list[int], change: Change = lambda _: None) -> bytes:
    objects = [answer(dataset, row) for row in rows]
    change(objects[-1])
    return json.dumps(objects).encode()


def error(code: str, row: int | None) -> dict[str, Any]:
    rows = [] if row is None else [{"row": row, "field": None, "code": code, "message": "..."}]
    return {"error": {"code": code, "message": "...", "rows": rows}}


def test_the_expected_answers_are_fine(dataset: Dataset) -> None:
    check_scores(200, answers(dataset, [4, 29, 4]), [4, 29, 4], dataset.expected)
    check_scores(200, b"[]", [], dataset.expected)


def test_an_expected_answer_may_carry_a_warning(dataset: Dataset) -> None:
    body = answers(dataset, [3], lambda one: one.update(warnings=[{"field": "x5"}]))
    check_scores(200, body, [3], dataset.expected)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda one: one.update(probability_positiveclass=one["probability_positiveclass"] + 1e-11),
            "row 7 has probability_pos",
        ),
        (
            lambda one: one.update(probability_predictedclass=one["probability_predictedclass"] - 1e-11),
            "row 7 has probability_pre",
        ),
        (lambda one: one.update(predicted_class=1 - one["predicted_class"]), "row 7 is given class"),
        (lambda one: one.update(predicted_class=str(one["predicted_class"])), "row 7 is given class '"),
        (lambda one: one.pop("predicted_class"), "no array of answers: .*predicted_class"),
        (lambda one: one.update(probability_positiveclass=None), "no array of answers"),
    ],
)
def test_a_wrong_answer_names_its_row(dataset: Dataset, change: Change, said: str) -> None:
    with pytest.raises(WrongAnswerError, match=said):
        check_scores(200, answers(dataset, [5, 7], change), [5, 7], dataset.expected)


def test_the_last_bit_may_differ(dataset: Dataset) -> None:
    body = answers(dataset, [7], lambda one: one.update(probability_positiveclass=one["probability_positiveclass"] + 1e-15))
    check_scores(200, body, [7], dataset.expected)


def test_another_number_of_answers_is_wrong(dataset: Dataset) -> None:
    with pytest.raises(WrongAnswerError, match="2 answers to 3 rows"):
        check_scores(200, answers(dataset, [1, 2]), [1, 2, 3], dataset.expected)


def test_another_status_is_wrong_whatever_the_body_says(dataset: Dataset) -> None:
    with pytest.raises(WrongAnswerError, match="status 503 instead of 200"):
        check_scores(503, answers(dataset, [1]), [1], dataset.expected)


@pytest.mark.parametrize("body", [b"", b"{}", b"[", b"<html>", b"[null]"])
def test_a_body_that_is_no_array_of_answers_is_wrong(dataset: Dataset, body: bytes) -> None:
    with pytest.raises(WrongAnswerError, match="no array of answers"):
        check_scores(200, body, [1], dataset.expected)


def test_a_refusal_has_its_status_its_code_and_its_row() -> None:
    body = json.dumps(error("missing_field", 3)).encode()
    check_refusal(422, body, wanted=422, code="missing_field", place=3)
    for status, code, place in ((400, "missing_field", 3), (422, "not_a_number", 3), (422, "missing_field", 4)):
        with pytest.raises(WrongAnswerError):
            check_refusal(422, body, wanted=status, code=code, place=place)
    with pytest.raises(WrongAnswerError, match="no error object"):
        check_refusal(422, b"[]", wanted=422, code="missing_field", place=3)


def test_a_body_that_is_no_json_is_refused_for_no_row() -> None:
    check_refusal(400, json.dumps(error("malformed_json", None)).encode(), wanted=400, code="malformed_json", place=None)


def test_a_report_has_good_answers_and_errors(dataset: Dataset) -> None:
    objects = [answer(dataset, 5), error("missing_field", 1), answer(dataset, 6)]
    rows, bad = [5, 9, 6], {1: "missing_field"}
    check_report(200, json.dumps(objects).encode(), rows, bad, dataset.expected)
    for place, wrong, said in (
        (0, error("missing_field", 0), "row 5 has no answer"),
        (1, answer(dataset, 9), "no error object"),
        (1, error("not_a_number", 1), "not_a_number of row 1"),
        (2, answer(dataset, 7), "row 6 "),
    ):
        changed = [*objects[:place], wrong, *objects[place + 1 :]]
        with pytest.raises(WrongAnswerError, match=said):
            check_report(200, json.dumps(changed).encode(), rows, bad, dataset.expected)
    with pytest.raises(WrongAnswerError, match="no array"):
        check_report(200, b"{}", rows, bad, dataset.expected)
