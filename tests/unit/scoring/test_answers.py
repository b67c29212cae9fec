from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from serve_app.errors import FieldProblem
from serve_app.scoring.answers import AnswerEncoder
from serve_app.scoring.explanation import Explanation

BINARY = AnswerEncoder(classes=[0, 1], threshold=0.5, selected_features=["x53", 'a"b'])


def encode(encoder: AnswerEncoder, probabilities: list[list[float]], **options: Any) -> list[dict[str, Any]]:
    array = np.array(probabilities, dtype=float) if probabilities else np.empty((0, 2))
    answers: list[dict[str, Any]] = json.loads(b"".join(encoder.encode(array, **options)))
    return answers


def test_an_answer_has_the_documented_fields_in_their_order() -> None:
    assert list(encode(BINARY, [[0.7, 0.3]])[0].items()) == [
        ("probability_positiveclass", 0.3),
        ("probability_predictedclass", 0.7),
        ("selected_features", ["x53", 'a"b']),
        ("predicted_class", 0),
    ]


def test_probabilities_keep_every_bit() -> None:
    positive = np.random.default_rng(1).random(5000)
    answers = encode(BINARY, np.column_stack([1 - positive, positive]).tolist())
    assert [answer["probability_positiveclass"] for answer in answers] == positive.tolist()


def test_no_rows_are_an_empty_array() -> None:
    assert b"".join(BINARY.encode(np.empty((0, 2)))) == b"[]"


def test_several_classes_are_answered_by_name() -> None:
    encoder = AnswerEncoder(classes=["red", "green", "blue"], threshold=0.5, selected_features=["a"])
    assert encode(encoder, [[0.25, 0.5, 0.25]]) == [
        {
            "probabilities": {"red": 0.25, "green": 0.5, "blue": 0.25},
            "probability_predictedclass": 0.5,
            "selected_features": ["a"],
            "predicted_class": "green",
        }
    ]


def test_warnings_stand_on_their_own_row_only() -> None:
    warning = FieldProblem(1, "x5", "unknown_category", "scored as null")
    answers = encode(BINARY, [[0.5, 0.5]] * 3, warnings=[warning])
    assert [answer.get("warnings") for answer in answers] == [
        None,
        [{"field": "x5", "code": "unknown_category", "message": "scored as null"}],
        None,
    ]


@pytest.mark.parametrize("bad", [{0}, {4}, {0, 1, 2, 3, 4}, {1, 3}, {3, 4}, set()])
def test_a_bad_row_has_an_error_object_in_its_place(bad: set[int]) -> None:
    problems = [FieldProblem(row, field, "not_a_number", f"row {row}") for row in sorted(bad) for field in ("a", "b")]
    good = [row for row in range(5) if row not in bad]
    warnings = [FieldProblem(row, "c", "unknown_category", f"row {row}") for row in good]
    answers = encode(BINARY, [[1 - row / 10, row / 10] for row in good], problems=problems, warnings=warnings)
    assert len(answers) == 5
    for row, answer in enumerate(answers):
        if row in bad:
            assert answer["error"]["code"] == "not_a_number"
            assert [(entry["row"], entry["field"]) for entry in answer["error"]["rows"]] == [(row, "a"), (row, "b")]
        else:
            assert answer["probability_positiveclass"] == row / 10
            assert answer["warnings"][0]["message"] == f"row {row}"


def test_many_answers_come_in_pieces_that_join_to_one_array() -> None:
    pieces = list(BINARY.encode(np.full((10_000, 2), 0.5)))
    assert len(pieces) > 3
    assert len(json.loads(b"".join(pieces))) == 10_000


def test_the_threshold_decides_between_two_classes() -> None:
    encoder = AnswerEncoder(classes=["no", "yes"], threshold=0.7, selected_features=["a"])
    found = [answer["predicted_class"] for answer in encode(encoder, [[0.31, 0.69], [0.3, 0.7]])]
    assert found == ["no", "yes"]


def test_each_good_row_has_its_explanation() -> None:
    explanations = [Explanation(1, "log_odds", float(row), 0.0, {"a": 1.0}, []) for row in range(3)]
    problems = [FieldProblem(1, "a", "not_a_number", "row 1")]
    answers = encode(BINARY, [[0.5, 0.5]] * 3, problems=problems, explanations=explanations)
    assert [answer.get("explanation", {}).get("base") for answer in answers] == [0.0, None, 1.0, 2.0]


def test_an_error_object_has_the_code_and_message_of_the_first_problem() -> None:
    problems = [FieldProblem(0, "a", "not_a_number", "first"), FieldProblem(0, "b", "missing_field", "second")]
    (answer,) = encode(BINARY, [], problems=problems)
    assert answer == {
        "error": {
            "code": "not_a_number",
            "message": "first",
            "rows": [
                {"row": 0, "field": "a", "code": "not_a_number", "message": "first"},
                {"row": 0, "field": "b", "code": "missing_field", "message": "second"},
            ],
        }
    }
