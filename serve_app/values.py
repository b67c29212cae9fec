"""What one cell's text means: numbers, money and percent.

Owns the grammars; one reader serves training and serving. Knows nothing of columns, rows or requests.
"""

from __future__ import annotations

import math
import re

__all__ = ["NotANumberError", "excerpt", "read_money", "read_number", "read_percent"]

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_AMOUNT = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+"
_MONEY = re.compile(
    rf"(?P<sign>[+-])?\$?(?P<plain>{_AMOUNT})"  # 5547.78, $5,547.78, -$5,032.58
    rf"|\$(?P<inner_sign>[+-])(?P<signed>{_AMOUNT})"  # $-5,032.58
    rf"|\(\$?(?P<negative>{_AMOUNT})\)",  # ($5,032.58), as book-keepers write it
    re.ASCII,
)
_EXCERPT_CHARACTERS = 32


class NotANumberError(ValueError):
    """A text that is no finite number in its column's grammar."""


def excerpt(value: str) -> str:
    """A short, escaped piece of untrusted text, fit for a message or a log line: quoted, ASCII, no control characters."""
    return ascii(value[:_EXCERPT_CHARACTERS]) + ("..." if len(value) > _EXCERPT_CHARACTERS else "")


def read_number(text: str) -> float:
    """``"14.757"``, ``"-1e3"``, ``" 7 "``; no separators, no ``nan``, no ``inf``, ASCII digits only.

    Raises:
        NotANumberError: any other text, or a number that overflows to infinity.
    """
    text = text.strip()
    if _NUMBER.fullmatch(text) is None:
        raise NotANumberError(f"{excerpt(text)} is not a number")
    return _finite(text)


def read_money(text: str) -> float:
    """``"$5,547.78"``; negative as ``"-$5,032.58"``, ``"$-5,032.58"`` or ``"($5,032.58)"``; a plain number too.

    Raises:
        NotANumberError: any other text, or a number that overflows to infinity.
    """
    text = text.strip()
    match = _MONEY.fullmatch(text)
    if match is None:
        return read_number(text)
    amount = match["plain"] or match["signed"] or match["negative"]
    value = _finite(amount.replace(",", ""))
    is_negative = match["sign"] == "-" or match["inner_sign"] == "-" or match["negative"] is not None
    return -value if is_negative else value


def read_percent(text: str) -> float:
    """``"36.29%"`` is 36.29 (not 0.3629); a number without the sign stands for itself.

    Raises:
        NotANumberError: any other text, or a number that overflows to infinity.
    """
    return read_number(text.strip().removesuffix("%"))


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise NotANumberError(f"{excerpt(text)} is too large for a 64-bit number")
    return value
