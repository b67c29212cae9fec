from __future__ import annotations

import json

import pytest
from support.parsing import GOOD, parse, problem_of, row


def test_an_absent_column_is_a_missing_field() -> None:
    assert problem_of('[{"a b": 1, "m": 1}]') == ("missing_field", "class")
    assert problem_of('{"a b": 1, "m": 1}') == ("missing_field", "class")


@pytest.mark.parametrize(("element", "kind"), [("1", "a number"), ("null", "null"), ("[]", "an array"), ('"x"', "a string")])
def test_an_element_that_is_no_object_is_that_rows_problem(element: str, kind: str) -> None:
    values, problems, _, count = parse(f"[{json.dumps(GOOD)}, {element}]")
    assert len(values) == 1
    assert count == 2
    assert [(problem.row, problem.field, problem.code) for problem in problems] == [(1, None, "not_an_object")]
    assert kind in problems[0].message


def test_every_problem_of_every_row_is_named_and_the_good_rows_are_kept() -> None:
    body = [GOOD, row(a="x", m="y"), row(a=2), {"a b": 1}]
    values, problems, _, count = parse(json.dumps(body))
    assert [line[0] for line in values] == [1.5, 2.0]
    assert count == 4
    assert [(problem.row, problem.field) for problem in problems] == [(1, "a b"), (1, "m"), (3, "class"), (3, "m")]


def test_many_bad_rows_have_at_least_one_problem_each_and_no_flood_of_them() -> None:
    _, problems, _, count = parse("[" + ",".join(["{}"] * 5000) + "]")
    assert count == 5000
    assert {problem.row for problem in problems} == set(range(5000))
    assert len(problems) == 3 * 1000 + 4000


def test_where_a_bad_row_stands_does_not_change_what_is_said_of_it() -> None:
    rows = [dict(GOOD) for _ in range(2000)]
    rows[1500] = {**GOOD, "a b": "x", "m": "y"}
    assert [problem.field for problem in parse(json.dumps(rows))[1]] == ["a b", "m"]
