"""A second, slow reading of a request's rows, with the standard library's JSON: what RowParser is compared with.

It shares no code with the service's parser and cell readers. Each reading of a cell is written another way than there.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from serve_app.scoring.schema import Column

__all__ = ["Expected", "ReferenceReader", "is_strict_json"]

MISSING = math.nan
CURRENCIES = ("$", "€", "£", "¥", "₹", "USD", "EUR", "GBP", "JPY", "CHF", "INR")
BOOLEANS = {"true": 1.0, "yes": 1.0, "t": 1.0, "y": 1.0, "false": 0.0, "no": 0.0, "f": 0.0, "n": 0.0}
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
CODES = {"boolean": "not_a_boolean", "date": "not_a_date"}
DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")

Problem = tuple[int, str | None, str]
"""Row, field, code."""


class Expected(NamedTuple):
    """``refusal`` is malformed, not_rows, too_many_rows, or empty; ``values`` holds the good rows."""

    refusal: str
    rows: int = 0
    values: Sequence[Sequence[float]] = ()
    problems: Sequence[Problem] = ()
    warnings: Sequence[Problem] = ()


class _Token(str):
    """A JSON number, as it was written."""

    __slots__ = ()


class _BadCellError(Exception):
    """A cell that cannot be scored; carries the code."""


class ReferenceReader:
    """Reads bodies for the given columns, within limits as RowParser has them."""

    def __init__(
        self, columns: Sequence[Column], *, max_magnitude: float, max_rows: int, max_text_characters: int, max_nesting: int
    ) -> None:
        self._columns = columns
        self._max_magnitude = max_magnitude
        self._max_rows = max_rows
        self._max_text_characters = max_text_characters
        self._max_nesting = max_nesting

    def read(self, body: bytes) -> Expected:
        """The meaning of a body."""
        try:
            document = _decode(body)
        except (ValueError, RecursionError):
            return Expected("malformed")
        if not isinstance(document, (list, dict)):
            return Expected("not_rows")
        rows = document if isinstance(document, list) else [document]
        brackets = body.count(b"[") + body.count(b"{")
        if brackets > self._max_nesting and any(_depth(row) > self._max_nesting for row in rows):
            return Expected("malformed")
        if len(rows) > self._max_rows:
            return Expected("too_many_rows")
        values: list[list[float]] = []
        problems: list[Problem] = []
        warnings: list[Problem] = []
        for number, row in enumerate(rows):
            self._read_row(number, row, values, problems, warnings)
        return Expected("", len(rows), values, problems, warnings)

    def _read_row(
        self, number: int, row: Any, values: list[list[float]], problems: list[Problem], warnings: list[Problem]
    ) -> None:
        if not isinstance(row, dict):
            problems.append((number, None, "not_an_object"))
            return
        found: list[float] = []
        bad: list[Problem] = []
        noted: list[Problem] = []
        for column in self._columns:
            try:
                value = self._read_cell(column, row)
            except _BadCellError as error:
                bad.append((number, column.name, str(error)))
                continue
            if value is None:
                noted.append((number, column.name, "unknown_category"))
            found.append(MISSING if value is None else value)
        if bad:
            problems += bad
        else:
            values.append(found)
            warnings += noted

    def _read_cell(self, column: Column, row: Mapping[str, Any]) -> float | None:
        """A number, NaN for a missing value, None for an unknown category."""
        if column.name not in row:
            raise _BadCellError("missing_field")
        cell = row[column.name]
        if isinstance(cell, str) and type(cell) is not _Token and len(cell) > self._max_text_characters:
            raise _BadCellError("text_too_long")
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            # A level may be blank or nothing at all.
            if column.kind == "categorical" and cell in column.levels and (cell or column.null == "reject"):
                return float(column.levels.index(cell))
            if column.null == "reject":
                raise _BadCellError("null_not_allowed")
            return MISSING
        if column.kind == "categorical":
            return self._read_category(column, cell)
        value = _read_number_cell(column.kind, cell)
        if not abs(value) <= self._max_magnitude:
            raise _BadCellError("not_a_number")
        return value

    def _read_category(self, column: Column, cell: Any) -> float | None:
        if isinstance(cell, (list, dict)):
            raise _BadCellError("not_a_category")
        name = {True: "true", False: "false"}[cell] if isinstance(cell, bool) else str(cell)
        if name in column.levels:
            return float(column.levels.index(name))
        if len(name) > self._max_text_characters:
            raise _BadCellError("text_too_long")
        if column.unknown == "reject":
            raise _BadCellError("unknown_category")
        return None


def is_strict_json(body: bytes) -> bool:
    """Whether a body is JSON by RFC 8259: UTF-8, no NaN and Infinity, no half of a surrogate pair."""
    try:
        _decode(body)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse_constant(token: str) -> None:
    raise ValueError(token)


_loads = json.JSONDecoder(parse_float=_Token, parse_int=_Token, parse_constant=_refuse_constant).decode


def _decode(body: bytes) -> Any:
    text = body.decode("utf-8", "strict")
    if text.startswith("\ufeff"):
        raise ValueError("a byte order mark")
    document = _loads(text)
    if SURROGATE.search(text):
        json.dumps(document, ensure_ascii=False).encode()  # fails for half of a surrogate pair
    return document


def _depth(value: Any) -> int:
    if isinstance(value, (list, dict)):
        inner = value.values() if isinstance(value, dict) else value
        return 1 + max(map(_depth, inner), default=0)
    return 0


def _read_number_cell(kind: str, cell: Any) -> float:
    if kind == "boolean" and isinstance(cell, bool):
        return float(cell)
    if type(cell) is _Token and kind not in CODES:
        return 0.0 if cell == "-0" else float(cell)  # an integer has no negative zero
    code = CODES.get(kind, "not_a_number")
    if type(cell) is not str:
        raise _BadCellError(code)
    try:
        return _READERS[kind](cell.strip())
    except (ValueError, KeyError) as error:
        raise _BadCellError(code) from error


def _number(text: str) -> float:
    # Whatever Python reads as a float, without its extras: words, underscores, other scripts.
    if not text.isascii() or "_" in text or any(mark.isalpha() and mark not in "eE" for mark in text):
        raise ValueError(text)
    return float(text)


def _percent(text: str) -> float:
    return _number(text.removesuffix("%").strip())


def _money(text: str) -> float:
    try:
        return _number(text)
    except ValueError:
        pass
    if text.startswith("(") and text.endswith(")"):
        return -_amount(_without_currency(text[1:-1])[0])
    sign, text = (text[0], text[1:]) if text[:1] in {"+", "-"} else ("", text)
    text, had_currency = _without_currency(text)
    if had_currency and not sign and text[:1] in {"+", "-"}:
        sign, text = text[0], text[1:]
    if not had_currency:
        for currency in CURRENCIES:
            if text.endswith(currency):
                text = text.removesuffix(currency)
                text = text[:-1] if text[-1:].isspace() and text[-1:].isascii() else text
                break
    return -_amount(text) if sign == "-" else _amount(text)


def _without_currency(text: str) -> tuple[str, bool]:
    for currency in CURRENCIES:
        if text.startswith(currency):
            rest = text.removeprefix(currency)
            return (rest[1:] if currency.isalpha() and rest[:1] in set(" \t\n\r\f\v") else rest), True
    return text, False


def _amount(text: str) -> float:
    whole, point, fraction = text.partition(".")
    groups = whole.split(",")
    is_grouped = len(groups) == 1 or (1 <= len(groups[0]) <= 3 and all(len(group) == 3 for group in groups[1:]))
    digits = "".join(groups) + fraction
    is_complete = bool(fraction) if point and not whole else bool(whole)
    if not (is_grouped and is_complete and digits.isascii() and digits.isdigit()):
        raise ValueError(text)
    return float(f"{''.join(groups)}.{fraction}")


def _boolean(text: str) -> float:
    return BOOLEANS[text.lower()]


def _date(text: str) -> float:
    day, rest = text[:10], text[10:]
    if not DAY.fullmatch(day) or (rest and not re.match(r"[T ][0-9]{2}:[0-9]{2}", rest)) or "\n" in rest:
        raise ValueError(text)
    moment = dt.datetime.fromisoformat(text)
    aware = moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
    return (aware - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) / dt.timedelta(days=1)


_READERS: dict[str, Callable[[str], float]] = {
    "numeric": _number,
    "money": _money,
    "percent": _percent,
    "boolean": _boolean,
    "date": _date,
}
