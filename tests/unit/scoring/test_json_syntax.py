from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from support.parsing import parse

from serve_app.errors import MalformedJSONError
from serve_app.scoring.json_syntax import elements, json_kind

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


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (" {}", "an object"),
        ("\t[1]", "an array"),
        ('"1"', "a string"),
        ("true", "a boolean"),
        ("false", "a boolean"),
        ("null", "null"),
        ("-1", "a number"),
        ("0", "a number"),
    ],
)
def test_a_value_is_told_by_its_first_character(raw: str, kind: str) -> None:
    assert json_kind(msgspec.Raw(raw)) == kind


@pytest.mark.parametrize(
    "array",
    [
        [],
        [1],
        [[]],
        [{}, [], "a"],
        ["]", "[1, 2]", '\\"', "},{"],
        [[1, [2, {"a": [3, 4]}]], {"b": {"c": "],"}}, None, -1.5],
    ],
)
@pytest.mark.parametrize("dumps", [{}, {"indent": 2}, {"separators": (",", ":")}])
def test_the_elements_of_an_array_are_those_that_a_decoder_finds(array: list[Any], dumps: dict[str, Any]) -> None:
    text = f" {json.dumps(array, **dumps)} "
    assert [json.loads(bytes(element)) for element in elements(text)] == array
