"""Cells of JSON as the numbers of a values array, or what is wrong with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any

import msgspec

from serve_app.errors import FieldProblem
from serve_app.scoring.cells import NotANumberError, excerpt
from serve_app.scoring.schema import READERS, Column

__all__ = ["FAST_CELLS", "RowProblem", "column_reader", "json_kind"]

_MISSING = math.nan
FAST_CELLS: dict[str, Any] = {"categorical": str | None, "date": str | None, "boolean": bool | str | None}
"""What a cell may be on the fast path, by kind; other kinds are numbers, as such or as text."""
_decode_number = msgspec.json.Decoder(float | str | None).decode
_decode_boolean = msgspec.json.Decoder(bool | str | None).decode
_decode_text = msgspec.json.Decoder(str | None).decode


class RowProblem(Exception):  # noqa: N818 - a signal within this module, never seen outside
    """A cell that cannot be scored."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


class _NumberReader:
    """Cells of a column whose cells become one number each: numeric, money, percent, boolean or date."""

    def __init__(self, column: Column, max_text_characters: int) -> None:
        self._max_text_characters = max_text_characters
        self._null_is_refused = column.null == "reject"
        self._null_tokens = frozenset(column.null_tokens)
        self._read_text = READERS[column.kind]
        self._decode: Callable[[msgspec.Raw], Any]
        self._decode, self._what = {
            "boolean": (_decode_boolean, "boolean"),
            "date": (_decode_text, "date"),
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
            is_large = found == "a number" and self._what == "number"
            reason = "the number is too large" if is_large else f"expected a {self._what}, got {found}"
            raise RowProblem(f"not_a_{self._what}", reason) from None

    def _read(self, cell: float | str | None) -> float:  # a bool is a number, too
        if isinstance(cell, (float, bool)):
            return float(cell)
        _check_length(cell, self._max_text_characters)
        if cell is None or not (stripped := cell.strip()) or stripped in self._null_tokens:
            if self._null_is_refused:
                raise RowProblem("null_not_allowed", "the field is null")
            return _MISSING
        try:
            return self._read_text(cell)
        except NotANumberError as error:
            raise RowProblem(f"not_a_{self._what}", str(error)) from None


class _CategoryReader:
    """Cells of a categorical column, as the position of their level."""

    def __init__(self, column: Column, max_text_characters: int) -> None:
        self._column = column
        self._max_text_characters = max_text_characters
        self._codes: dict[str | None, float] = {level: float(code) for code, level in enumerate(column.levels)}
        if column.null == "impute":
            self._codes |= {None: _MISSING, "": _MISSING} | dict.fromkeys(column.null_tokens, _MISSING)

    def read_all(self, cells: list[Any], first_row: int, warnings: list[FieldProblem]) -> Sequence[float]:
        codes = list(map(self._codes.get, cells, repeat(None)))
        if None not in codes:
            return codes  # type: ignore[return-value]
        return [
            self._unusual(cells[index], first_row + index, warnings) if code is None else code
            for index, code in enumerate(codes)
        ]

    def read_one(self, raw: msgspec.Raw, row: int, warnings: list[FieldProblem]) -> float:
        kind = json_kind(raw)
        if kind in {"an object", "an array"}:
            raise RowProblem("not_a_category", f"expected text, got {kind}")
        # A level may look like a number or a boolean: its JSON text is its name.
        value = _decode_text(raw) if kind in {"text", "null"} else bytes(raw).decode()
        code = self._codes.get(value)
        return self._unusual(value, row, warnings) if code is None else code

    def _unusual(self, cell: str | None, row: int, warnings: list[FieldProblem]) -> float:
        _check_length(cell, self._max_text_characters)
        if cell is None or not (stripped := cell.strip()) or stripped in self._column.null_tokens:
            if self._column.null == "reject":
                raise RowProblem("null_not_allowed", "the field is null")
            return _MISSING
        reason = f"{excerpt(cell)} is not one of its {len(self._column.levels)} known categories"
        if self._column.unknown == "reject":
            raise RowProblem("unknown_category", reason)
        message = f"row {row}, field {excerpt(self._column.name)}: {reason}; scored as if it were null"
        warnings.append(FieldProblem(row, self._column.name, "unknown_category", message))
        return _MISSING


def column_reader(column: Column, max_text_characters: int) -> _NumberReader | _CategoryReader:
    """The reader of a column's cells."""
    return (_CategoryReader if column.is_categorical else _NumberReader)(column, max_text_characters)


def _check_length(text: str | None, max_characters: int) -> None:
    if text is not None and len(text) > max_characters:
        raise RowProblem("text_too_long", f"the text has more than {max_characters} characters")


def json_kind(raw: msgspec.Raw) -> str:
    """What a JSON value is, in words for a message."""
    kinds = {b"{": "an object", b"[": "an array", b'"': "text", b"t": "a boolean", b"f": "a boolean", b"n": "null"}
    return kinds.get(bytes(raw).lstrip()[:1], "a number")
