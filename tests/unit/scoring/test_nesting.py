from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.parsing import GOOD, parse

from serve_app.errors import MalformedJSONError
from serve_app.scoring import rows as rows_module


def nested(depth: int) -> str:
    """A row of which a column that is not used is so deep, the row itself included."""
    return json.dumps(GOOD)[:-1] + ', "zzz": ' + "[" * (depth - 1) + "]" * (depth - 1) + "}"


@pytest.mark.parametrize(
    "around",
    [
        "{}",
        "[{}]",
        " [ {} ] ",
        '[{{"a b": 1, "class": "x", "m": 1}}, {}]',
        '[{}, {{"a b": "bad", "class": "x", "m": 1}}]',
    ],
)
def test_values_may_be_as_deep_as_the_limit_and_no_deeper(around: str) -> None:
    parse(around.format(nested(5)), max_nesting=5)
    with pytest.raises(MalformedJSONError, match="nested more than 5 levels deep"):
        parse(around.format(nested(6)), max_nesting=5)


def test_the_byte_is_named_at_which_it_is_too_deep() -> None:
    body = json.dumps([{**GOOD, "zzz": [[["y"]]]}])
    with pytest.raises(MalformedJSONError) as refused:
        parse(body, max_nesting=3)
    assert refused.value.offset == body.index("[[[") + 2


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
def test_depth_is_what_it_is_whatever_strings_hold(values: list[Any], limit: int) -> None:
    rows = [{**GOOD, "zzz": value} for value in values]
    is_too_deep = max(map(depth_of, rows)) > limit
    try:
        parsed = parse(json.dumps(rows), max_nesting=limit)
        assert (len(parsed.values), parsed.problems) == (len(rows), [])
    except MalformedJSONError:
        assert is_too_deep
    else:
        assert not is_too_deep
