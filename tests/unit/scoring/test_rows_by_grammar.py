"""Bodies drawn from the grammar, read as by the reference: hypothesis draws and shrinks here, make fuzz draws a million."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.parser_comparison import EVERY_KIND, ParserComparison, Shard, compare_shard, minimised, published_columns
from support.reference_rows import ReferenceReader, is_strict_json
from support.request_grammar import CORPUS, Grammar

from serve_app.components.compiled import Components
from serve_app.scoring.schema import Column

GRAMMAR, COMPARISON = Grammar(EVERY_KIND), ParserComparison(EVERY_KIND, 1e300)


@settings(max_examples=300)
@given(st.randoms(use_true_random=False))
def test_a_body_of_the_grammar_is_read_as_by_the_reference(random: Random) -> None:
    body = GRAMMAR.body(random)
    difference, expected, _ = COMPARISON.compare(body)
    assert difference == "", (body, expected)


def test_a_thousand_seeded_bodies_are_read_and_scored_alike_and_most_are_json() -> None:
    shard = compare_shard(Shard(seed=1, inputs=1000))
    assert shard.differences == []
    assert shard.well_formed > 600
    assert {"all rows good", "some rows bad", "malformed", "too_many_rows"} <= shard.outcomes.keys()
    assert shard.outcomes["all rows good"] > 400


@pytest.mark.parametrize("path", sorted(CORPUS.iterdir()), ids=lambda path: path.stem)
def test_a_nasty_body_is_read_as_by_the_reference(components: Components, path: Path) -> None:
    comparison = ParserComparison(published_columns(components), components.encoder.max_magnitude)
    assert comparison.compare(path.read_bytes())[0] == ""


def test_the_same_seed_draws_the_same_bodies() -> None:
    first, again, other = ([GRAMMAR.body(random) for _ in range(9)] for random in map(Random, (1, 1, 2)))
    assert first == again
    assert first != other
    assert Grammar(EVERY_KIND).body(Random(1)) == first[0]


def test_the_comparison_notices_what_differs() -> None:
    parser_of_others = ParserComparison((Column("n", "numeric"), Column("m", "money")), 1e300)
    parser_of_others._reference = ReferenceReader(
        (Column("n", "numeric", null="reject"), Column("m", "numeric")),
        max_magnitude=1e3, max_rows=2, max_text_characters=9, max_nesting=3,
    )  # fmt: skip
    for body, difference in (
        (b'{"n": null, "m": 1}', "problems"),
        (b'{"n": 1, "m": "$1"}', "problems"),
        (b'{"n": 1e4, "m": 1}', "problems"),
        (b'[{"n":1,"m":1},{"n":1,"m":1},{"n":1,"m":1}]', "not refused: too_many_rows"),
        (b'{"n":1,"m":1,"u":[[[[]]]]}', "not refused: malformed"),
    ):
        assert parser_of_others.compare(body)[0].startswith(difference), body


def test_a_failing_body_is_minimised() -> None:
    body = json.dumps([{"n": number, "needle": [number]} for number in range(50)]).encode()
    assert minimised(body, lambda shorter: b"needle" in shorter and b"[" in shorter) in {b"[needle", b"needle["}


def test_strict_json_is_what_the_standard_says() -> None:
    for body, is_json in (
        (b"[1]", True), (b"NaN", False), (b"\xef\xbb\xbf[]", False), (b'"\\ud800"', False), (b'"\\ud83d\\ude00"', True),
        (b'"\xff"', False), (b"[1,]", False), (b'{"\\udc00": 1}', False), (b"01", False), (b"", False),
    ):  # fmt: skip
        assert is_strict_json(body) is is_json, body
