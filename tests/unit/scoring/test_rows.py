from __future__ import annotations

import json
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.strict_json import strictly_json

from serve_app.errors import FieldProblem, MalformedJSONError, NotRowsError, TooManyRowsError
from serve_app.scoring import nesting
from serve_app.scoring import rows as rows_module
from serve_app.scoring.rows import RowParser
from serve_app.scoring.schema import Column

COLUMNS = (
    Column("a b", "numeric"),
    Column("class", "categorical", levels=("x", "y", "5")),
    Column("m", "money"),
)
GOOD: dict[str, Any] = {"a b": 1.5, "class": "y", "m": "$2.50"}


def parse(
    body: bytes | str, *, columns: tuple[Column, ...] = COLUMNS, max_rows: int = 10_000
) -> tuple[list[list[float | None]], list[FieldProblem], list[FieldProblem], int]:
    """Values with None for NaN, problems, warnings and the count of all rows."""
    parser = RowParser(columns, max_magnitude=1e300, max_rows=max_rows)
    chunks = list(parser.chunks(body.encode() if isinstance(body, str) else body))
    values = [[None if math.isnan(cell) else cell for cell in row] for chunk in chunks for row in chunk.values.tolist()]
    problems = [problem for chunk in chunks for problem in chunk.problems]
    warnings = [warning for chunk in chunks for warning in chunk.warnings]
    return values, problems, warnings, sum(chunk.rows for chunk in chunks)


def row(**changes: Any) -> dict[str, Any]:
    names = {"a": "a b", "c": "class", "m": "m"}
    return {**GOOD, **{names[key]: value for key, value in changes.items()}}


def problem_of(body: str, **options: Any) -> tuple[str, str | None]:
    _, problems, _, _ = parse(body, **options)
    assert len(problems) == 1
    return problems[0].code, problems[0].field


def test_a_row_becomes_numbers_and_level_positions() -> None:
    assert parse(json.dumps([GOOD]))[0] == [[1.5, 1.0, 2.5]]


def test_one_object_is_one_row() -> None:
    assert parse(json.dumps(GOOD)) == parse(json.dumps([GOOD]))


def test_no_rows_are_no_rows() -> None:
    assert parse("[]") == ([], [], [], 0)
    assert parse(" [ ] ") == ([], [], [], 0)


def test_numbers_may_come_as_text_and_integers() -> None:
    assert parse(json.dumps([row(a="14.757"), row(a=3), row(a=" -1e1 ")]))[0] == [
        [14.757, 1.0, 2.5],
        [3.0, 1.0, 2.5],
        [-10.0, 1.0, 2.5],
    ]


@pytest.mark.parametrize("missing", [None, "", "  "])
def test_null_and_empty_text_are_missing_values(missing: str | None) -> None:
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
def test_a_nested_value_is_no_category(cell: str) -> None:
    assert problem_of(f'[{{"a b": 1, "class": {cell}, "m": 1}}]') == ("not_a_category", "class")


def test_an_absent_column_is_a_missing_field() -> None:
    assert problem_of('[{"a b": 1, "m": 1}]') == ("missing_field", "class")
    assert problem_of('{"a b": 1, "m": 1}') == ("missing_field", "class")


@pytest.mark.parametrize(("element", "kind"), [("1", "a number"), ("null", "null"), ("[]", "an array"), ('"x"', "text")])
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


def test_unused_and_unknown_columns_are_ignored_whatever_they_hold() -> None:
    assert parse('[{"a b": 1, "zzz": {"deep": [1e999, true]}, "class": "x", "m": 1, "": null}]')[0] == [[1.0, 0.0, 1.0]]


def test_of_a_duplicate_key_the_last_wins() -> None:
    assert parse('[{"a b": 1, "a b": 2, "class": "x", "m": 1}]')[0][0][0] == 2.0
    assert parse('[{"a b": true, "a b": 2, "class": "x", "m": 1}]')[0][0][0] == 2.0
    assert problem_of('[{"a b": 2, "a b": true, "class": "x", "m": 1}]') == ("not_a_number", "a b")


MALFORMED = [
    (b"", 0),
    (b"  ", 2),
    (b"xyz", 0),
    (b"[{]", 2),
    (b'[{"a b": NaN}]', 9),
    (b'[{"zzz": Infinity}]', 9),
    (b'[{"zzz": -Infinity}]', 10),
    (b'[{"zzz": "\xff"}]', 10),
    (b'[{"\xff": 1}]', 3),
    (b"\xef\xbb\xbf[]", 0),
    (b"[] x", 3),
    (b'{"a b": 1} {', 11),
    (b'[{"a b": 1,}]', 11),
    (b"[1,]", 2),
    (b'[{"zzz": 01}]', 10),
    (b'[{"zzz": "\n"}]', 10),
    (b"3 x", 2),
    (b"['x']", 1),
]


@pytest.mark.parametrize(("body", "offset"), MALFORMED)
def test_what_is_no_json_is_malformed_at_its_byte(body: bytes, offset: int) -> None:
    with pytest.raises(MalformedJSONError) as caught:
        parse(body)
    assert abs(caught.value.offset - offset) <= 1
    assert f"byte {caught.value.offset}" in str(caught.value)


@pytest.mark.parametrize(
    "bomb", [b"[" * 100_000, b'[{"a":' * 50_000, b"[" * 100_000 + b"]" * 100_000, b'[{"zzz": ' + b"[" * 10_000]
)
def test_nesting_bombs_are_malformed(bomb: bytes) -> None:
    with pytest.raises(MalformedJSONError, match="nested too deeply"):
        parse(bomb)


@pytest.mark.parametrize(("body", "found"), [("null", "null"), ("3", "a number"), ('"x"', "text"), ("true", "a boolean")])
def test_a_scalar_is_no_rows(body: str, found: str) -> None:
    with pytest.raises(NotRowsError) as caught:
        parse(body)
    assert caught.value.found == found


def test_too_many_rows_are_refused() -> None:
    body = json.dumps([GOOD] * 4)
    assert parse(body, max_rows=4)[3] == 4
    with pytest.raises(TooManyRowsError):
        parse(body, max_rows=3)


def large(rows: list[dict[str, Any]], **dumps: Any) -> bytes:
    """A body of several pieces: the rows are padded with an unused column that is full of traps for the cutting."""
    trap = '}, {"a b": 7}, {' + "€" + "\\" + '"' + "}" * 3
    padded = [{**line, "pad": [trap, {"x": 1}, {"y": 2}], "text": "p" * 2000} for line in rows]
    body = json.dumps(padded, **dumps).encode()
    assert len(body) > 3 * rows_module._PIECE_BYTES
    return body


@pytest.mark.parametrize("dumps", [{}, {"indent": 2}, {"separators": (",", ":")}, {"ensure_ascii": False}])
def test_a_large_request_is_read_in_pieces_with_the_same_result(dumps: dict[str, Any]) -> None:
    rows = [row(a=float(index), c="x" if index % 3 else "unknown") for index in range(600)]
    plain = [{**line, "text": "p" * 2000} for line in rows]
    expected = parse(json.dumps(rows))
    for body in (large(rows, **dumps), json.dumps(plain, **dumps).encode()):
        assert parse(body) == expected


def test_pieces_of_a_large_plain_request_are_read_one_by_one() -> None:
    body = json.dumps([{**GOOD, "text": "p" * 2000}] * 600).encode()
    parser = RowParser(COLUMNS, max_magnitude=1e300, max_rows=1000)
    assert [chunk.rows for chunk in parser.chunks(body)][:2] == [chunk.rows for chunk in parser.chunks(body)][1:3]
    assert len(list(parser.chunks(body))) >= 4


def test_a_bad_row_in_a_large_request_keeps_its_number() -> None:
    rows = [dict(GOOD) for _ in range(600)]
    rows[7]["a b"] = "x"
    rows[599]["m"] = True
    for body in (large(rows), json.dumps([{**line, "text": "p" * 2000} for line in rows]).encode()):
        _, problems, _, count = parse(body)
        assert [(problem.row, problem.field) for problem in problems] == [(7, "a b"), (599, "m")]
        assert count == 600


@pytest.mark.parametrize("garbage", [b" x", b"]", b", {}", b'{"a b"'])
def test_garbage_behind_a_large_request_is_malformed_at_its_byte(garbage: bytes) -> None:
    body = json.dumps([{**GOOD, "text": "p" * 2000}] * 600).encode()
    with pytest.raises(MalformedJSONError) as caught:
        parse(body + garbage)
    assert len(body) <= caught.value.offset <= len(body) + 2


def test_a_large_request_that_breaks_off_or_breaks_in_the_middle_is_malformed_at_its_byte() -> None:
    body = json.dumps([{**GOOD, "text": "p" * 2000}] * 600).encode()
    with pytest.raises(MalformedJSONError) as caught:
        parse(body[:-1])
    assert caught.value.offset == len(body) - 1
    broken = body[:700_000] + b"\xff" + body[700_001:]
    with pytest.raises(MalformedJSONError) as caught:
        parse(broken)
    assert caught.value.offset == 700_000


def test_a_large_single_object_is_one_row() -> None:
    body = json.dumps({**GOOD, "pad": [{"x": "p" * 1000}] * 1000}).encode()
    assert parse(body) == parse(json.dumps(GOOD))


def test_rows_without_their_array_are_malformed() -> None:
    body = b", ".join([json.dumps({**GOOD, "text": "p" * 2000}).encode()] * 600)
    with pytest.raises(MalformedJSONError):
        parse(body)


CELLS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=20),
    st.sampled_from(["x", "y", "5", "$5.00", "($1,234.50)", "1e3", ""]), st.lists(st.integers(), max_size=2),
)  # fmt: skip
ANY_ROW = st.dictionaries(st.sampled_from(["a b", "class", "m", "zzz", ""]), CELLS)


@given(st.lists(ANY_ROW, max_size=8))
def test_the_fast_and_the_thorough_path_agree(rows: list[dict[str, Any]]) -> None:
    together = parse(json.dumps(rows))
    alone = [parse(json.dumps([line])) for line in rows]
    assert together[0] == [values for result in alone for values in result[0]]
    assert [problem.field for problem in together[1]] == [problem.field for result in alone for problem in result[1]]
    assert [warning.field for warning in together[2]] == [warning.field for result in alone for warning in result[2]]


@given(st.lists(ANY_ROW, min_size=1, max_size=30), st.integers(1, 400))
@settings(max_examples=50)
def test_where_a_body_is_cut_changes_nothing(rows: list[dict[str, Any]], piece_bytes: int) -> None:
    body = json.dumps(rows)
    whole = parse(body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "_PIECE_BYTES", piece_bytes)
        assert parse(body) == whole


@given(st.binary(max_size=60) | st.text(alphabet='[]{}",:0123456789.eE+-truefalsn \\u"x\x00é', max_size=60).map(str.encode))
@settings(max_examples=400)
def test_any_bytes_are_rows_or_a_named_refusal(body: bytes) -> None:
    try:
        values, problems, _, count = parse(body)
    except MalformedJSONError as error:
        assert 0 <= error.offset <= len(body)
        # json.loads takes lone surrogates, which are no text; nothing else that it takes is malformed.
        assert not strictly_json(body) or b"\\u" in body
    except NotRowsError:
        assert strictly_json(body)
    else:
        assert strictly_json(body)
        assert len(values) + len({problem.row for problem in problems}) == count


def test_values_are_a_c_ordered_float64_array() -> None:
    parser = RowParser(COLUMNS, max_magnitude=1e300, max_rows=10)
    chunk = next(parser.chunks(json.dumps([GOOD, GOOD]).encode()))
    assert chunk.values.dtype == np.float64
    assert chunk.values.flags.c_contiguous


def test_many_bad_rows_have_at_least_one_problem_each_and_no_flood_of_them() -> None:
    _, problems, _, count = parse("[" + ",".join(["{}"] * 5000) + "]")
    assert count == 5000
    assert {problem.row for problem in problems} == set(range(5000))
    assert len(problems) == 3 * 1000 + 4000


@pytest.mark.parametrize("tiny", ["{}", "0", "[]", json.dumps(GOOD)])
def test_tiny_rows_hidden_from_the_cutting_are_too_many_before_all_are_in_memory(
    monkeypatch: pytest.MonkeyPatch, tiny: str
) -> None:
    monkeypatch.setattr(rows_module, "_PIECE_BYTES", 1000)
    monkeypatch.setattr(rows_module, "_LARGE_PIECE_BYTES", 4000)
    monkeypatch.setattr(nesting, "_SLICE_BYTES", 1000)
    body = "[" + json.dumps({**GOOD, "zzz": "}, {" * 20_000}) + f",{tiny}" * 200_000 + "]"
    tracemalloc.start()
    try:
        with pytest.raises(TooManyRowsError):
            parse(body, max_rows=1000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6 * len(body) + 2_000_000


def test_braces_in_texts_and_nested_values_that_are_not_used_are_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "_PIECE_BYTES", 1000)
    monkeypatch.setattr(rows_module, "_LARGE_PIECE_BYTES", 4000)
    nested = [{**GOOD, "tags": [{"a": 1, "b": [[], {}]}] * 50, "text": "},{" * 20, "a b": float(row)} for row in range(90)]
    values, problems, _, count = parse(json.dumps(nested), max_rows=100)
    assert ([line[0] for line in values], problems, count) == ([float(row) for row in range(90)], [], 90)
    assert parse(json.dumps({**GOOD, "text": "{" * 100_000}), max_rows=100)[3] == 1


def test_columns_whose_names_json_escapes_are_read_like_others() -> None:
    columns = (Column('say "a"\\b\n', "numeric"), Column("c", "categorical", levels=("x",)))
    rows = [{columns[0].name: 1.5, "c": "x"}, {columns[0].name: "bad", "c": "x"}]
    values, problems, _, _ = parse(json.dumps(rows), columns=columns)
    assert values == [[1.5, 0.0]]
    assert [(problem.row, problem.field) for problem in problems] == [(1, columns[0].name)]
    (chunk,) = RowParser(columns, max_magnitude=1e300, max_rows=10).chunks(b"[]")
    assert chunk.values.shape == (0, 2)


def test_where_a_bad_row_stands_does_not_change_what_is_said_of_it() -> None:
    rows = [dict(GOOD) for _ in range(2000)]
    rows[1500] = {**GOOD, "a b": "x", "m": "y"}
    assert [problem.field for problem in parse(json.dumps(rows))[1]] == ["a b", "m"]


# Booleans and dates, which no column of the published model is.


@pytest.fixture(scope="module")
def typed_parser() -> RowParser:
    return RowParser([Column("is", "boolean"), Column("on", "date", null="reject")], max_magnitude=1e300, max_rows=10)


def test_booleans_and_dates_are_read_as_such_and_as_text(typed_parser: RowParser) -> None:
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
        ({"is": True, "on": ""}, "null_not_allowed", "the field is null"),
    ],
)
def test_what_is_no_boolean_or_no_date_is_refused(typed_parser: RowParser, row: dict[str, Any], code: str, said: str) -> None:
    (chunk,) = typed_parser.chunks(json.dumps([row]).encode())
    (problem,) = chunk.problems
    assert problem.code == code
    assert problem.message.endswith(said)
