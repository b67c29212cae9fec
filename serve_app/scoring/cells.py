"""What the string in a cell means: numbers, money, percentages, booleans and dates.

Owns the grammars, which training and serving share. Knows nothing of columns, rows or requests.
"""

from __future__ import annotations

import datetime as dt
import math
import re

__all__ = ["NotANumberError", "cell_text", "excerpt", "read_boolean", "read_date", "read_money", "read_number", "read_percent"]

# Possessive: otherwise a long string of digits that is not a number would be tried in each way to cut it in two.
_NUMBER = re.compile(r"[+-]?+(?:\d++\.?+\d*+|\.\d++)(?:[eE][+-]?+\d++)?+", re.ASCII)

_AMOUNT = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+"
_CURRENCY = r"(?:[$€£¥₹]|(?:USD|EUR|GBP|JPY|CHF|INR)\s?)"
_MONEY = re.compile(
    rf"(?P<sign>[+-])?{_CURRENCY}?(?P<plain>{_AMOUNT})"  # 5547.78, $5,547.78, -$5,032.58
    rf"|{_CURRENCY}(?P<inner_sign>[+-])(?P<signed>{_AMOUNT})"  # $-5,032.58
    rf"|\({_CURRENCY}?(?P<negative>{_AMOUNT})\)"  # ($5,032.58), as bookkeepers write it
    rf"|(?P<left_sign>[+-])?(?P<left>{_AMOUNT})\s?{_CURRENCY}",  # -5,032.58 €
    re.ASCII,
)

_BOOLEANS = {"true": 1.0, "yes": 1.0, "t": 1.0, "y": 1.0, "false": 0.0, "no": 0.0, "f": 0.0, "n": 0.0}

_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d.*)?", re.ASCII)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

_EXCERPT_CHARACTERS = 32


class NotANumberError(ValueError):
    """A string that is not a finite number, a boolean or a date, whichever its column holds."""


def excerpt(value: str) -> str:
    """The start of an untrusted string, fit for a message or a log line: quoted, ASCII, without control characters."""
    return ascii(value[:_EXCERPT_CHARACTERS]) + ("..." if len(value) > _EXCERPT_CHARACTERS else "")


def read_number(text: str) -> float:
    """``"14.757"``, ``"-1e3"`` or ``" 7 "``; no separators, no ``nan``, no ``inf``, ASCII digits only.

    Raises:
        NotANumberError: any other string, or a number that overflows to infinity.
    """
    text = text.strip()
    if _NUMBER.fullmatch(text) is None:
        raise NotANumberError(f"{excerpt(text)} is not a number")
    return _finite(text)


def read_money(text: str) -> float:
    """``"$5,547.78"``; negative as ``"-$5,032.58"``, ``"$-5,032.58"`` or ``"($5,032.58)"``; or a plain number.

    The currency (``$ € £ ¥ ₹``, ``USD EUR GBP JPY CHF INR``) may come before or after the amount and is ignored: amounts are
    not converted. The decimal mark is a point.

    Raises:
        NotANumberError: any other string, or a number that overflows to infinity.
    """
    text = text.strip()
    match = _MONEY.fullmatch(text)
    if match is None:
        return read_number(text)
    amount = match["plain"] or match["signed"] or match["negative"] or match["left"]
    value = _finite(amount.replace(",", ""))
    is_negative = "-" in {match["sign"], match["inner_sign"], match["left_sign"]} or match["negative"] is not None
    return -value if is_negative else value


def read_percent(text: str) -> float:
    """``"36.29%"`` or ``"36.29"`` is 36.29, not 0.3629.

    Raises:
        NotANumberError: any other string, or a number that overflows to infinity.
    """
    return read_number(text.strip().removesuffix("%"))


def read_boolean(text: str) -> float:
    """1.0 for ``true``, ``yes``, ``t`` and ``y``, 0.0 for ``false``, ``no``, ``f`` and ``n``, in upper or lower case.

    Raises:
        NotANumberError: any other string.
    """
    value = _BOOLEANS.get(text.strip().lower())
    if value is None:
        raise NotANumberError(f"{excerpt(text)} is not a boolean")
    return value


def read_date(text: str) -> float:
    """``"2024-05-01"`` or ``"2024-05-01T12:30:00+02:00"`` (ISO 8601, UTC without an offset) in days since 1970-01-01.

    Raises:
        NotANumberError: any other string.
    """
    text = text.strip()
    if _DATE.fullmatch(text) is None:
        raise NotANumberError(f"{excerpt(text)} is not a date")
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise NotANumberError(f"{excerpt(text)} is not a date") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return (moment - _EPOCH) / dt.timedelta(days=1)


def cell_text(value: object) -> str:
    """A typed value as the string that JSON would hold: null is empty, numbers keep all their digits, dates are ISO 8601.

    Raises:
        TypeError: the value is nested or binary.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dt.date, dt.datetime)):
        return value.isoformat()
    if isinstance(value, (str, int, float)) or type(value).__name__ == "Decimal":
        return str(value)
    raise TypeError(f"a {type(value).__name__} cannot be the cell of a table")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise NotANumberError(f"{excerpt(text)} is too large for a 64-bit number")
    return value
