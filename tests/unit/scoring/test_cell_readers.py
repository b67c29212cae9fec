from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from support.parsing import GOOD, parse, problem_of, row

from serve_app.scoring.rows import RowParser
from serve_app.scoring.schema import Column

LONG_LEVEL = "a level that is longer than the limit"
LIMITED = (Column("a", "numeric"), Column("c", "categorical", levels=("x", LONG_LEVEL)))
SHORT: dict[str, Any] = {"a": 1.5, "c": "x"}


def good_and_codes(row: dict[str, Any]) -> tuple[int, list[str]]:
    """How many rows are good, and the codes of what is wrong, with strings of at most 10 characters."""
    parsed = parse(json.dumps([SHORT, row]), columns=LIMITED, max_text_characters=10)
    return len(parsed.values), [problem.code for problem in parsed.problems]


def test_numbers_may_come_as_strings_and_integers() -> None:
    assert parse(json.dumps([row(a="14.757"), row(a=3), row(a=" -1e1 ")]))[0] == [
        [14.757, 1.0, 2.5],
        [3.0, 1.0, 2.5],
        [-10.0, 1.0, 2.5],
    ]


@pytest.mark.parametrize("missing", [None, "", "  "])
def test_null_and_empty_strings_are_missing_values(missing: str | None) -> None:
    values, problems, warnings, _ = parse(json.dumps([row(a=missing, c=missing, m=missing)]))
    assert values == [[None, None, None]]
    assert problems == warnings == []


def test_unknown_categories_count_as_missing_and_are_said_on_their_own_row() -> None:
    values, problems, warnings, _ = parse(json.dumps([GOOD, row(c="blursday"), GOOD]))
    assert [line[1] for line in values] == [1.0, None, 1.0]
    assert problems == []
    assert [(warning.row, warning.field, warning.code) for warning in warnings] == [(1, "class", "unknown_category")]
    assert "'blursday'" in warnings[0].message


def test_a_category_may_be_a_json_number_or_boolean() -> None:
    values, _, warnings, _ = parse(json.dumps([row(c=5), row(c=True)]))
    assert [line[1] for line in values] == [2.0, None]
    assert [warning.row for warning in warnings] == [1]


def test_policies_refuse_what_they_are_told_to() -> None:
    strict = (
        Column("a b", "numeric", null="reject"),
        Column("class", "categorical", levels=("x",), null="reject", unknown="reject"),
    )
    assert problem_of('[{"a b": null, "class": "x"}]', columns=strict) == ("null_not_allowed", "a b")
    assert problem_of('[{"a b": 1, "class": ""}]', columns=strict) == ("null_not_allowed", "class")
    assert problem_of('[{"a b": 1, "class": null}]', columns=strict) == ("null_not_allowed", "class")
    assert problem_of('[{"a b": 1, "class": "y"}]', columns=strict) == ("unknown_category", "class")


@pytest.mark.parametrize(
    "cell", ['"abc"', "true", "false", "[1]", "{}", "1e999", "-1e999", '"nan"', '"1e999"', "1e301", "9" * 400]
)
def test_what_is_no_finite_number_is_not_a_number(cell: str) -> None:
    assert problem_of(f'[{{"a b": {cell}, "class": "x", "m": 1}}]') == ("not_a_number", "a b")


@pytest.mark.parametrize("cell", ["[1]", "{}"])
def test_a_nested_value_is_not_a_category(cell: str) -> None:
    assert problem_of(f'[{{"a b": 1, "class": {cell}, "m": 1}}]') == ("not_a_category", "class")


@pytest.fixture(scope="module")
def typed_parser() -> RowParser:
    return RowParser([Column("is", "boolean"), Column("on", "date", null="reject")], max_magnitude=1e300, max_rows=10)


def test_booleans_and_dates_are_read_as_such_and_as_strings(typed_parser: RowParser) -> None:
    rows = [{"is": True, "on": "1970-01-02"}, {"is": "no", "on": "1970-01-01T12:00"}, {"is": None, "on": "1969-12-31"}]
    (fast,) = typed_parser.chunks(json.dumps(rows).encode())
    assert np.array_equal(fast.values, np.array([[1, 1], [0, 0.5], [np.nan, -1]]), equal_nan=True)
    (thorough,) = typed_parser.chunks(json.dumps([*rows, {}]).encode())
    assert np.array_equal(thorough.values, fast.values, equal_nan=True)


@pytest.mark.parametrize(
    ("row", "code", "said"),
    [
        ({"is": 1, "on": "1970-01-02"}, "not_a_boolean", "expected a boolean, got a number"),
        ({"is": "maybe", "on": "1970-01-02"}, "not_a_boolean", "'maybe' is not a boolean"),
        ({"is": True, "on": 19000}, "not_a_date", "expected a date, got a number"),
        ({"is": True, "on": "2.1.1970"}, "not_a_date", "'2.1.1970' is not a date"),
        ({"is": True, "on": ""}, "null_not_allowed", "must not be null or empty"),
    ],
)
def test_what_is_no_boolean_or_no_date_is_refused(typed_parser: RowParser, row: dict[str, Any], code: str, said: str) -> None:
    (chunk,) = typed_parser.chunks(json.dumps([row]).encode())
    (problem,) = chunk.problems
    assert problem.code == code
    assert problem.message.endswith(said)


@pytest.mark.parametrize("column", ["a", "c"])
def test_a_string_may_be_as_long_as_the_limit_and_no_longer(column: str) -> None:
    expected = {"a": (1, ["not_a_number"]), "c": (2, [])}  # an unknown category is only a warning
    assert good_and_codes({**SHORT, column: "y" * 10}) == expected[column]
    assert good_and_codes({**SHORT, column: "y" * 11}) == (1, ["text_too_long"])


def test_blanks_are_no_way_around_the_limit() -> None:
    assert good_and_codes({**SHORT, "a": " " * 10}) == good_and_codes({**SHORT, "c": " " * 10}) == (2, [])
    assert good_and_codes({**SHORT, "a": " " * 11}) == (1, ["text_too_long"])
    assert good_and_codes({**SHORT, "c": " " * 11}) == (1, ["text_too_long"])


def test_a_level_of_the_model_is_known_however_long_it_is() -> None:
    assert good_and_codes({**SHORT, "c": LONG_LEVEL}) == (2, [])


def test_columns_that_the_model_does_not_use_may_hold_long_strings() -> None:
    assert good_and_codes({**SHORT, "zzz": "y" * 100_000}) == (2, [])


def test_a_refusal_says_what_was_expected() -> None:
    strict = (Column("n", "numeric"), Column("c", "categorical", levels=("x",), unknown="reject"))
    parsed = parse('[{"n": [1], "c": [1]}, {"n": 1e999, "c": {}}, {"n": true, "c": "y"}]', columns=strict)
    assert [problem.message for problem in parsed.problems] == [
        "row 0, field 'n': expected a number, got an array",
        "row 0, field 'c': expected a string, got an array",
        "row 1, field 'n': the number is too large",
        "row 1, field 'c': expected a string, got an object",
        "row 2, field 'n': expected a number, got a boolean",
        "row 2, field 'c': 'y' is not a known category",
    ]


def test_a_warning_says_how_the_row_was_scored() -> None:
    (warning,) = parse(json.dumps([GOOD, row(c="blursday")])).warnings
    assert warning.message == "row 1, field 'class': 'blursday' is not a known category; scored as if it were null"
