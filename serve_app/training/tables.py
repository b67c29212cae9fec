"""A table from a file: Parquet, JSON, JSON lines or CSV, as columns of strings.

Owns which formats there are, and how the cells of a column become numbers, by the same grammars as those of a request. Decides
nothing about what a column is (column_kinds.py), nor about what a missing value is but an empty cell (nulls.py). Knows no model
and no particular table.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from serve_app.errors import TableError
from serve_app.scoring.arrays import Array
from serve_app.scoring.cells import NotANumberError, cell_text, excerpt
from serve_app.scoring.schema import READERS, Column
from serve_app.training.csv_tables import CsvOptions, UnreadableCsvError, read_csv
from serve_app.training.decompression import read_decompressed, uncompressed

__all__ = ["Table", "is_null", "read_column", "read_table"]

_Cells = TypeVar("_Cells")
_MIN_ROWS = 20
_SPREADSHEETS = {".xlsx", ".xls", ".ods"}
_MAX_MAGNITUDE = 1e100  # its square, summed over any table, is still a finite number


@dataclass(frozen=True)
class Table:
    """The cells of each column as strings, by the column's name; an empty string is a missing value.

    ``first_row`` is the number that messages give the first row: 2 in a CSV file, where the header is row 1, as in a
    spreadsheet. ``unreadable`` holds the columns whose values are not cells (nested or binary), with the reason.
    """

    path: Path
    columns: Mapping[str, Sequence[str]]
    first_row: int = 1
    unreadable: Mapping[str, str] = field(default_factory=dict)

    @property
    def row_count(self) -> int:
        """How many rows there are."""
        return len(next(iter(self.columns.values()), ()))

    def row(self, index: int, names: Iterable[str]) -> dict[str, str | None]:
        """One row as a client would send it, with the columns ``names``."""
        cells = {name: self.columns[name][index] for name in names}
        return {name: None if is_null(cell) else cell for name, cell in cells.items()}

    def error(self, reason: str) -> TableError:
        """An error about the whole table."""
        return TableError(f"{self.path}: {reason}")

    def cell_error(self, index: int, column: str, reason: str) -> TableError:
        """An error about one cell; ``index`` counts rows from 0."""
        return self.error(f"row {index + self.first_row}, column {excerpt(column)}: {reason}")


def read_table(path: Path, csv: CsvOptions = CsvOptions(), *, min_rows: int = _MIN_ROWS) -> Table:  # noqa: B008 - frozen
    """The table in a file, whose suffix tells the format.

    ``.parquet`` is Parquet, ``.json`` an array of objects, ``.jsonl`` and ``.ndjson`` an object per line. Anything else is CSV
    with a header. Each may be compressed: ``.csv.gz``.

    Raises:
        TableError: the file cannot be read, is not a table, or has fewer than ``min_rows`` rows.
    """
    try:
        content = read_decompressed(path)
    except OSError as error:
        raise TableError(f"{path} cannot be read: {error.strerror or error}") from error
    suffix = uncompressed(path).suffix.lower()
    if suffix in _SPREADSHEETS:
        raise TableError(f"{path} is a spreadsheet, which cannot be read; save the sheet as CSV")
    if suffix == ".parquet":
        table = _read_parquet(path, content)
    elif suffix in {".json", ".jsonl", ".ndjson"}:
        table = _read_json(path, content, is_lines=suffix != ".json")
    else:
        table = _read_csv(path, content, csv)
    if table.unreadable and not table.columns:
        raise table.error(next(iter(table.unreadable.values())))
    if table.row_count < min_rows:
        raise TableError(f"{path} has too few rows to train on: {table.row_count}; at least {min_rows} are needed")
    return table


def read_column(table: Table, column: Column) -> Array:
    """The cells of one column as numbers, shape (rows,).

    A category becomes the position of its level, a missing value or an unknown category NaN.

    Raises:
        TableError: a cell cannot be read; names its row.
    """
    cells = table.columns[column.name]
    if column.is_categorical:
        codes = {level: float(code) for code, level in enumerate(column.levels)}
        return np.array([codes.get(cell, math.nan) for cell in cells])
    read = READERS[column.kind]
    values = []
    for index, cell in enumerate(cells):
        try:
            value = math.nan if is_null(cell) else read(cell)
        except NotANumberError as error:
            raise table.cell_error(index, column.name, str(error)) from None
        if abs(value) > _MAX_MAGNITUDE:
            raise table.cell_error(index, column.name, f"{excerpt(cell)} is too large to train on")
        values.append(value)
    return np.array(values)


def is_null(cell: str) -> bool:
    """Whether a cell counts as missing."""
    return not cell.strip()


def _read_csv(path: Path, content: bytes, options: CsvOptions) -> Table:
    try:
        header, columns = read_csv(content, options)
    except UnreadableCsvError as error:
        raise TableError(f"{path} {error}") from error
    return Table(path, dict(_unique(path, header, columns)), first_row=2)


def _read_json(path: Path, content: bytes, *, is_lines: bool) -> Table:
    try:
        if is_lines:
            rows = msgspec.json.Decoder(dict[str, Any]).decode_lines(content)
        else:
            rows = msgspec.json.decode(content, type=list[dict[str, Any]])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        what = "lines of JSON objects" if is_lines else "a JSON array of row objects"
        raise TableError(f"{path} is not {what}: {error}") from error
    names = dict.fromkeys(name for row in rows for name in row)
    return _table_of(path, ((name, [row.get(name) for row in rows]) for name in names))


def _read_parquet(path: Path, content: bytes) -> Table:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise TableError("reading Parquet needs the packages that make install-data installs") from error
    try:
        found = pq.read_table(pa.BufferReader(content))
    except pa.ArrowException as error:
        raise TableError(f"{path} is not a Parquet file: {error}") from error
    columns = _unique(path, found.column_names, found.columns)
    return _table_of(path, ((name, cells.to_pylist()) for name, cells in columns))


def _unique(path: Path, names: Sequence[str], columns: Sequence[_Cells]) -> Iterable[tuple[str, _Cells]]:
    for name, count in Counter(names).items():
        if count > 1:
            raise TableError(f"{path}: the column {excerpt(name)} appears twice in the header")
    return zip(names, columns, strict=True)


def _table_of(path: Path, columns: Iterable[tuple[str, Sequence[object]]]) -> Table:
    """A table of typed values; a column with a value that is not a cell is unreadable."""
    cells: dict[str, Sequence[str]] = {}
    unreadable: dict[str, str] = {}
    for name, values in columns:
        try:
            cells[name] = [cell_text(value) for value in values]
        except TypeError:
            unreadable[name] = _why_unreadable(name, values)
    return Table(path, cells, unreadable=unreadable)


def _why_unreadable(name: str, values: Sequence[object]) -> str:
    for index, value in enumerate(values):
        try:
            cell_text(value)
        except TypeError as error:
            return f"row {index + 1}, column {excerpt(name)}: it holds {error}"
    raise AssertionError("each of the values is a cell")
