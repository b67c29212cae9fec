from __future__ import annotations

import datetime as dt
import itertools
import math
import re
from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.scoring import cells
from serve_app.scoring.cells import (
    NotANumberError,
    cell_text,
    excerpt,
    read_boolean,
    read_date,
    read_money,
    read_number,
    read_percent,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [("14.757", 14.757), ("-1e3", -1000.0), (" 7 ", 7.0), ("+.5", 0.5), ("5.", 5.0), ("0", 0.0), ("1E-2", 0.01)],
)
def test_a_number_is_read(text: str, value: float) -> None:
    assert read_number(text) == value


@pytest.mark.parametrize(
    "text",
    ["", "x", "nan", "inf", "-Infinity", "1_000", "1,000", "0x10", "1e", "--1", "1 2", "٣", "1e999", "9" * 400, "."],
)
def test_what_is_no_finite_number_is_refused(text: str) -> None:
    for read in (read_number, read_percent):
        with pytest.raises(NotANumberError):
            read(text)


@pytest.mark.parametrize("text", ["($5,032.58)", "$-5,032.58", "-$5,032.58", "-5032.58", "(5,032.58)", "-5,032.58"])
def test_negative_money_has_several_spellings_and_one_value(text: str) -> None:
    assert read_money(text) == -5032.58


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$5,547.78", 5547.78),
        ("$0.5", 0.5),
        ("$.5", 0.5),
        ("+$7", 7.0),
        ("1e3", 1000.0),
        ("$1,234,567", 1234567.0),
        ("€5", 5.0),
        ("5 €", 5.0),
        ("CHF 7.50", 7.5),
    ],
)
def test_positive_money_is_read(text: str, value: float) -> None:
    assert read_money(text) == value


@pytest.mark.parametrize(
    "text", ["$", "($-5)", "-($5)", "$5,03", "$50,32,1", "5$$", "€", "(5", "$$5", "$1e3,000", "$" + "9" * 400]
)
def test_what_is_no_money_is_refused(text: str) -> None:
    with pytest.raises(NotANumberError):
        read_money(text)


@pytest.mark.parametrize(("text", "value"), [("36.29%", 36.29), ("-3 %", -3.0), ("36.29", 36.29)])
def test_percent_counts_in_percent(text: str, value: float) -> None:
    assert read_percent(text) == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_the_shortest_text_of_a_number_reads_as_that_number(value: float) -> None:
    assert read_number(repr(value)) == value


@given(st.decimals(min_value=-(10**12), max_value=10**12, places=2))
def test_money_text_reads_as_the_same_amount_in_each_spelling(amount: object) -> None:
    value = float(str(amount))
    written = f"{abs(value):,.2f}"
    if value < 0:
        assert read_money(f"(${written})") == read_money(f"$-{written}") == read_money(f"-${written}") == float(f"{value:.2f}")
    else:
        assert read_money(f"${written}") == float(f"{value:.2f}")


@given(st.text())
def test_any_text_is_a_finite_number_or_refused(text: str) -> None:
    for read in (read_number, read_money, read_percent):
        try:
            value = read(text)
        except NotANumberError as error:
            assert len(str(error)) < 500
        else:
            assert math.isfinite(value)


@given(st.text())
def test_an_excerpt_is_short_printable_ascii(text: str) -> None:
    assert re.fullmatch(r"['\"][ -~]{0,330}['\"](\.\.\.)?", excerpt(text))
    assert len(excerpt("x" * 10_000)) < 50


@pytest.mark.parametrize(
    ("text", "value"), [("true", 1), ("Yes", 1), (" t ", 1), ("Y", 1), ("FALSE", 0), ("no", 0), ("f", 0), ("n", 0)]
)
def test_a_boolean_is_read_in_any_case(text: str, value: float) -> None:
    assert read_boolean(text) == value


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("1970-01-01", 0),
        ("2024-02-29", 19782),
        ("1969-12-31", -1),
        (" 1970-01-02T06:00 ", 1.25),
        ("1970-01-02 06:00:00Z", 1.25),
        ("1970-01-02T06:00:00+06:00", 1),
    ],
)
def test_a_date_is_days_since_1970(text: str, days: float) -> None:
    assert read_date(text) == days


@pytest.mark.parametrize("text", ["", "1", "2", "ja", "truefalse"])
def test_what_is_no_boolean_is_refused(text: str) -> None:
    with pytest.raises(NotANumberError, match="is not a boolean"):
        read_boolean(text)


@pytest.mark.parametrize("text", ["", "20240229", "2024-02-30", "2024-W01-1", "29.02.2024", "2024-02-29T25:00", "2024-02-29Tx"])
def test_what_is_no_date_is_refused(text: str) -> None:
    with pytest.raises(NotANumberError, match="is not a date"):
        read_date(text)


def test_the_grammar_of_numbers_is_the_plain_one() -> None:
    plain = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
    for length in range(8):
        for characters in itertools.product("7.e-x" if length < 7 else "7.e-", repeat=length):
            text = "".join(characters)
            assert (cells._NUMBER.fullmatch(text) is None) == (plain.fullmatch(text) is None), text


@given(st.text("07.eE+-, %$x", max_size=20))
def test_longer_texts_are_numbers_by_the_plain_grammar_too(text: str) -> None:
    plain = re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text, re.ASCII)
    assert (cells._NUMBER.fullmatch(text) is None) == (plain is None)


@pytest.mark.parametrize("start", ["", "-", "$", "(", "0.", ".", "1e", "€-"])
@pytest.mark.parametrize("repeated", ["1", ",111", "11.", "1e", " "])
@pytest.mark.parametrize("end", ["x", "%x", " €€", ")"])
def test_a_long_text_that_is_no_number_is_refused_in_as_many_steps_as_it_has_characters(
    start: str, repeated: str, end: str
) -> None:
    # In the square of that many it would take hours: there is no need to measure the time.
    text = start + repeated * 300_000 + end
    for read in (read_number, read_money, read_percent, read_date, read_boolean):
        with pytest.raises(NotANumberError):
            read(text)


def test_an_excerpt_says_whether_it_is_cut() -> None:
    assert excerpt("x" * 32) == "'" + "x" * 32 + "'"
    assert excerpt("x" * 33) == "'" + "x" * 32 + "'..."


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (read_number, " 1,5 ", "'1,5' is not a number"),
        (read_number, "1e999", "'1e999' is too large for a 64-bit number"),
        (read_money, "5$$", "'5$$' is not a number"),
        (read_boolean, "maybe", "'maybe' is not a boolean"),
        (read_date, "2024-02-30", "'2024-02-30' is not a date"),
    ],
)
def test_a_refusal_quotes_the_cell(read: Callable[[str], float], text: str, message: str) -> None:
    with pytest.raises(NotANumberError) as refused:
        read(text)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (math.nan, ""),
        (True, "true"),
        (False, "false"),
        (7, "7"),
        (0.1, "0.1"),
        ("x", "x"),
        (Decimal("1.50"), "1.50"),
        (dt.date(2024, 2, 29), "2024-02-29"),
        (dt.datetime(2024, 2, 29, 12, 30, tzinfo=dt.UTC), "2024-02-29T12:30:00+00:00"),
    ],
)
def test_a_typed_value_is_written_as_json_would_hold_it(value: object, text: str) -> None:
    assert cell_text(value) == text


@pytest.mark.parametrize("value", [b"x", [1], {"a": 1}])
def test_a_nested_or_binary_value_is_not_a_cell(value: object) -> None:
    with pytest.raises(TypeError, match=f"^a {type(value).__name__} cannot be the cell of a table$"):
        cell_text(value)
