"""Reads the cells of one column: JSON values become numbers of the values array, or an error says what is wrong.

Owns the column's policies (null, unknown category, length of strings). What a string means as a number or a date is decided by
``cells``, which fields a row must have by ``rows``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from serve_app.errors import FieldProblem
from serve_app.scoring.cells import NotANumberError, excerpt
from serve_app.scoring.json_syntax import json_kind
from serve_app.scoring.schema import READERS, Column

__all__ = ["CellError", "CellReader", "cell_reader"]

_MISSING = math.nan

_decode_number = msgspec.json.Decoder(float | str | None).decode
_decode_boolean = msgspec.json.Decoder(bool | str | None).decode
_decode_string = msgspec.json.Decoder(str | None).decode


class CellError(Exception):
    """A cell that cannot be scored; never leaves this package.

    Args:
        code: what the client sees.
        message: without the row and the field.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


class CellReader(Protocol):
    """Reads the cells of one column. Warnings about unknown categories are added to ``warnings``."""

    def read_all(self, cells: list[Any], first_row: int, warnings: list[FieldProblem]) -> Sequence[float]:
        """The numbers of decoded cells, which belong to consecutive rows.

        Raises:
            CellError: one of them cannot be scored.
        """
        ...

    def read_one(self, raw: msgspec.Raw, row: int, warnings: list[FieldProblem]) -> float:
        """The number of a cell that is not decoded yet.

        Raises:
            CellError: it cannot be scored.
        """
        ...


def cell_reader(column: Column, max_text_characters: int) -> CellReader:
    """The reader of a column; strings longer than ``max_text_characters`` are refused."""
    return (_CategoryReader if column.is_categorical else _NumberReader)(column, max_text_characters)


class _NumberReader:
    """A column whose cells become one number each: numeric, money, percent, boolean or date."""

    def __init__(self, column: Column, max_text_characters: int) -> None:
        self._column = column
        self._max_text_characters = max_text_characters
        self._null_tokens = frozenset(column.null_tokens)
        self._read_string = READERS[column.kind]
        self._decode: Callable[[msgspec.Raw], Any]
        self._decode, self._expected = {
            "boolean": (_decode_boolean, "boolean"),
            "date": (_decode_string, "date"),
        }.get(column.kind, (_decode_number, "number"))

    def read_all(self, cells: list[Any], first_row: int, warnings: list[FieldProblem]) -> Sequence[float]:
        del first_row, warnings
        read = self._read
        return [cell if type(cell) is float else read(cell) for cell in cells]

    def read_one(self, raw: msgspec.Raw, row: int, warnings: list[FieldProblem]) -> float:
        del row, warnings
        try:
            return self._read(self._decode(raw))
        except msgspec.ValidationError:
            found = json_kind(raw)
            is_large = found == "a number" and self._expected == "number"
            message = "the number is too large" if is_large else f"expected a {self._expected}, got {found}"
            raise CellError(f"not_a_{self._expected}", message) from None

    def _read(self, cell: float | str | None) -> float:
        if isinstance(cell, (float, bool)):
            return float(cell)
        if cell is None or _is_blank(cell, self._max_text_characters) or cell.strip() in self._null_tokens:
            return _missing_value(self._column)
        try:
            return self._read_string(cell)
        except NotANumberError as error:
            raise CellError(f"not_a_{self._expected}", str(error)) from None


class _CategoryReader:
    """A categorical column, whose cells become the positions of their levels."""

    def __init__(self, column: Column, max_text_characters: int) -> None:
        self._column = column
        self._max_text_characters = max_text_characters
        self._codes: dict[str | None, float] = {level: float(code) for code, level in enumerate(column.levels)}
        if column.null == "impute":
            self._codes |= {None: _MISSING, "": _MISSING} | dict.fromkeys(column.null_tokens, _MISSING)

    def read_all(self, cells: list[Any], first_row: int, warnings: list[FieldProblem]) -> Sequence[float]:
        codes = list(map(self._codes.get, cells))
        if None not in codes:
            return codes  # type: ignore[return-value]
        return [
            self._read_unusual(cells[index], first_row + index, warnings) if code is None else code
            for index, code in enumerate(codes)
        ]

    def read_one(self, raw: msgspec.Raw, row: int, warnings: list[FieldProblem]) -> float:
        kind = json_kind(raw)
        if kind in {"an object", "an array"}:
            raise CellError("not_a_category", f"expected a string, got {kind}")
        # A level may look like a number or a boolean: then its name is how JSON writes it.
        value = _decode_string(raw) if kind in {"a string", "null"} else bytes(raw).decode()
        code = self._codes.get(value)
        return self._read_unusual(value, row, warnings) if code is None else code

    def _read_unusual(self, cell: str | None, row: int, warnings: list[FieldProblem]) -> float:
        """A cell that is not a level."""
        if cell is None or _is_blank(cell, self._max_text_characters) or cell.strip() in self._column.null_tokens:
            return _missing_value(self._column)
        reason = f"{excerpt(cell)} is not a known category"
        if self._column.unknown == "reject":
            raise CellError("unknown_category", reason)
        message = f"row {row}, field {excerpt(self._column.name)}: {reason}; scored as if it were null"
        warnings.append(FieldProblem(row, self._column.name, "unknown_category", message))
        return _MISSING


def _is_blank(cell: str, max_characters: int) -> bool:
    """Whether a string is empty or blank; blanks count towards its length, so that they do not evade the limit."""
    if len(cell) > max_characters:
        raise CellError("text_too_long", f"the string is longer than {max_characters} characters")
    return not cell.strip()


def _missing_value(column: Column) -> float:
    if column.null == "reject":
        raise CellError("null_not_allowed", "must not be null or empty")
    return _MISSING
