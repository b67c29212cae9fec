"""How long a text may be and how deep values may stand in each other, in what is read of a body."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.components.compiled import Components
from serve_app.config import Settings, load_settings
from serve_app.errors import MalformedJSONError, RequestError
from serve_app.scoring import rows as rows_module
from serve_app.scoring.rows import RowParser
from serve_app.scoring.schema import Column
from serve_app.serving.pipeline import Pipeline

COLUMNS = (Column("a", "numeric"), Column("c", "categorical", levels=("x", "a level that is longer than the limit")))
GOOD: dict[str, Any] = {"a": 1.5, "c": "x"}


def parse(body: str, **limits: int) -> tuple[int, list[str]]:
    """How many rows are good, and the codes of what is wrong with the others."""
    parser = RowParser(COLUMNS, max_magnitude=1e300, max_rows=10_000, **limits)
    chunks = list(parser.chunks(body.encode()))
    return sum(len(chunk.values) for chunk in chunks), [problem.code for chunk in chunks for problem in chunk.problems]


@pytest.mark.parametrize("column", ["a", "c"])
def test_a_text_may_be_as_long_as_the_limit_and_no_longer(column: str) -> None:
    for length, codes in ((10, {"not_a_number", "unknown_category"}), (11, {"text_too_long"})):
        good, found = parse(json.dumps([GOOD, {**GOOD, column: "y" * length}]), max_text_characters=10)
        assert (good, set(found) <= codes) == (2 - len(found), True)
        assert found or length == 10


def test_blanks_are_no_way_around_the_limit() -> None:
    assert parse(json.dumps([{**GOOD, "a": " " * 11}, {**GOOD, "c": " " * 11}]), max_text_characters=10) == (
        0,
        ["text_too_long"] * 2,
    )


def test_a_level_of_the_model_is_known_however_long_it_is() -> None:
    assert parse(json.dumps({**GOOD, "c": COLUMNS[1].levels[1]}), max_text_characters=10) == (1, [])


def test_columns_that_the_model_does_not_use_may_hold_long_texts() -> None:
    assert parse(json.dumps({**GOOD, "zzz": "y" * 100_000}), max_text_characters=10) == (1, [])


def nested(depth: int) -> str:
    """A row of which a column that is not used is so deep, the row itself included."""
    return json.dumps(GOOD)[:-1] + ', "zzz": ' + "[" * (depth - 1) + "]" * (depth - 1) + "}"


@pytest.mark.parametrize("around", ["{}", "[{}]", " [ {} ] ", '[{{"a": 1, "c": "x"}}, {}]', '[{}, {{"a": "bad", "c": "x"}}]'])
def test_values_may_be_as_deep_as_the_limit_and_no_deeper(around: str) -> None:
    parse(around.format(nested(5)), max_nesting=5)
    with pytest.raises(MalformedJSONError, match="nested more than 5 deep"):
        parse(around.format(nested(6)), max_nesting=5)


def test_the_byte_is_named_at_which_it_is_too_deep() -> None:
    with pytest.raises(MalformedJSONError) as refused:
        parse('[{"a": 1, "c": "x", "zzz": [[["y"]]]}]', max_nesting=3)
    assert refused.value.offset == 29


def test_a_large_body_is_refused_by_the_same_limit_at_its_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "_PIECE_BYTES", 1000)
    rows = [json.dumps({**GOOD, "text": "p" * 500})] * 100
    body = "[" + ", ".join([*rows[:50], nested(6), *rows[50:]]) + "]"
    with pytest.raises(MalformedJSONError) as refused:
        parse(body, max_nesting=5)
    assert body.encode()[refused.value.offset :].startswith(b"[]]]]]}")


VALUES = st.recursive(
    st.none() | st.text(alphabet='[]{}"\\a', max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='[]{}"\\a', max_size=5), inner, max_size=3),
    max_leaves=25,
)


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


@given(st.lists(VALUES, min_size=1, max_size=5), st.integers(1, 8))
def test_depth_is_what_it_is_whatever_stands_in_texts(values: list[Any], limit: int) -> None:
    rows = [{**GOOD, "zzz": value} for value in values]
    is_too_deep = max(map(depth_of, rows)) > limit
    try:
        assert parse(json.dumps(rows), max_nesting=limit) == (len(rows), [])
    except MalformedJSONError:
        assert is_too_deep
    else:
        assert not is_too_deep


@pytest.mark.parametrize("limits", [{"max_nesting": 3}, {"max_rows": 1}])
def test_the_limits_of_the_settings_hold_for_a_request(components: Components, example: dict[str, Any], limits: Any) -> None:
    body = json.dumps([{**example, "unused": [[[1]]]}] * 2).encode()

    async def score(settings: Settings) -> None:
        await Pipeline(settings, components, None).score(body)

    asyncio.run(score(Settings()))
    with pytest.raises(RequestError):
        asyncio.run(score(load_settings({"limits": limits})))
