from __future__ import annotations

import asyncio
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.parsing import COLUMNS, GOOD, parse, problem_of, row
from support.strict_json import strictly_json

from serve_app.components.compiled import Components
from serve_app.config import Settings, load_settings
from serve_app.errors import MalformedJSONError, NotRowsError, RequestError, TooManyRowsError
from serve_app.scoring import nesting
from serve_app.scoring import rows as rows_module
from serve_app.scoring.rows import RowParser
from serve_app.serving.pipeline import Pipeline


def test_a_row_becomes_numbers_and_level_positions() -> None:
    assert parse(json.dumps([GOOD]))[0] == [[1.5, 1.0, 2.5]]


def test_one_object_is_one_row() -> None:
    assert parse(json.dumps(GOOD)) == parse(json.dumps([GOOD]))


def test_no_rows_are_no_rows() -> None:
    assert parse("[]") == ([], [], [], 0)
    assert parse(" [ ] ") == ([], [], [], 0)


def test_unused_and_unknown_columns_are_ignored_whatever_they_hold() -> None:
    assert parse('[{"a b": 1, "zzz": {"deep": [1e999, true]}, "class": "x", "m": 1, "": null}]')[0] == [[1.0, 0.0, 1.0]]


def test_of_a_duplicate_key_the_last_wins() -> None:
    assert parse('[{"a b": 1, "a b": 2, "class": "x", "m": 1}]')[0][0][0] == 2.0
    assert parse('[{"a b": true, "a b": 2, "class": "x", "m": 1}]')[0][0][0] == 2.0
    assert problem_of('[{"a b": 2, "a b": true, "class": "x", "m": 1}]') == ("not_a_number", "a b")


@pytest.mark.parametrize(("body", "found"), [("null", "null"), ("3", "a number"), ('"x"', "a string"), ("true", "a boolean")])
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


@pytest.mark.parametrize("limits", [{"max_nesting": 3}, {"max_rows": 1}])
def test_the_limits_of_the_settings_hold_for_a_request(components: Components, example: dict[str, Any], limits: Any) -> None:
    body = json.dumps([{**example, "unused": [[[1]]]}] * 2).encode()

    async def score(settings: Settings) -> None:
        await Pipeline(settings, components, None).score(body)

    asyncio.run(score(Settings()))
    with pytest.raises(RequestError):
        asyncio.run(score(load_settings({"limits": limits})))
