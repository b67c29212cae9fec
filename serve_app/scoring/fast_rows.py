"""The fast way to read rows: all of them decoded by msgspec at once, then read column by column.

Owns the msgspec type that is built from the columns. Gives up at the first problem, without saying what it is: that is left to
``thorough_rows``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np

from serve_app.errors import FieldProblem
from serve_app.scoring.cell_readers import CellError, CellReader
from serve_app.scoring.row_chunk import RowChunk
from serve_app.scoring.schema import Column

__all__ = ["FastRows"]

_NUMBER = float | str | None
_CELLS: dict[str, Any] = {"categorical": str | None, "date": str | None, "boolean": bool | str | None}
"""The type of a cell by the kind of its column, where it is not ``_NUMBER``."""

_ESCAPED = re.compile(r'["\\\x00-\x1f]')


class FastRows:
    """Reads rows that have no problem.

    Args:
        columns: in the order of the values array.
        readers: of the columns' cells.
        max_magnitude: the largest absolute number that can be scored.
    """

    decode: Callable[[str], Any]
    """Decodes a row object or an array of them; raises msgspec's errors."""

    def __init__(self, columns: Sequence[Column], readers: Sequence[CellReader], max_magnitude: float) -> None:
        attributes = [f"c{index}" for index in range(len(columns))]  # a column's name need not be an identifier
        self._max_magnitude = max_magnitude
        self._columns = [(attrgetter(attribute), reader) for attribute, reader in zip(attributes, readers, strict=True)]
        if any(_ESCAPED.search(column.name) for column in columns):
            self.decode = _refuse  # a Struct's field cannot be renamed to a name that JSON escapes
            return
        row_type = msgspec.defstruct(
            "Row",
            [(attribute, _CELLS.get(column.kind, _NUMBER)) for attribute, column in zip(attributes, columns, strict=True)],
            rename=dict(zip(attributes, (column.name for column in columns), strict=True)),
            gc=False,
        )
        self.decode = msgspec.json.Decoder(list[row_type] | row_type).decode  # type: ignore[valid-type]

    def read(self, rows: list[Any], first_row: int) -> RowChunk:
        """The values of decoded rows.

        Raises:
            CellError: one of the cells cannot be scored.
        """
        values = np.empty((len(rows), len(self._columns)))
        warnings: list[FieldProblem] = []
        for index, (getter, reader) in enumerate(self._columns):
            values[:, index] = reader.read_all(list(map(getter, rows)), first_row, warnings)
        if (np.abs(values) > self._max_magnitude).any():
            raise CellError("not_a_number", "the number is too large")
        return RowChunk(values, len(rows), (), warnings)


def _refuse(_text: str) -> Any:
    raise msgspec.ValidationError
