"""A table from a file: Parquet, JSON, JSON lines or CSV, as columns of strings.

Owns how each format is read, and how the cells of a column become numbers, by the same grammars as those of a request. Decides
nothing about what a column is (column_kinds.py). Knows no model and no particular table.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from serve_app.errors import TableError
from serve_app.scoring.arrays import Array
from serve_app.scoring.cells import NotANumberError, cell_text, excerpt
from serve_app.scoring.schema import READERS, Column

__all__ = ["Table", "is_null", "read_column", "read_table"]

_MIN_ROWS = 20
_MAX_MAGNITUDE = 1e100  # its square, summed over any table, is still a finite number


@dataclass(frozen=True)
class Table:
    """The cells of each column as strings, by the column's name; an empty string is a missing value.

    ``first_row`` is the number that messages give the first row: 2 in a CSV file, where the header is row 1, as in a
    spreadsheet.
    """

    path: Path
    columns: Mapping[str, Sequence[str]]
    first_row: int = 1

    def error(self, reason: str) -> TableError:
        """An error about the whole table."""
        return TableError(f"{self.path}: {reason}")

    def cell_error(self, index: int, column: str, reason: str) -> TableError:
        """An error about one cell; ``index`` counts rows from 0."""
        return self.error(f"row {index + self.first_row}, column {excerpt(column)}: {reason}")

    def row(self, index: int, names: Iterable[str]) -> dict[str, str | None]:
        """One row as a client would send it; None for a missing value."""
        cells = {name: self.columns[name][index] for name in names}
        return {name: None if is_null(cell) else cell for name, cell in cells.items()}


def read_table(path: Path, *, min_rows: int = _MIN_ROWS) -> Table:
    """The table in a file, whose suffix tells the format.

    ``.parquet`` is Parquet, ``.json`` an array of objects, ``.jsonl`` and ``.ndjson`` an object per line. Anything else is CSV
    in UTF-8 with a header.

    Raises:
        TableError: the file cannot be read, is not a table, or has fewer than ``min_rows`` rows.
    """
    read = {".parquet": _read_parquet, ".json": _read_json, ".jsonl": _read_json, ".ndjson": _read_json}
    try:
        table = read.get(path.suffix.lower(), _read_csv)(path)
    except OSError as error:
        raise TableError(f"{path} cannot be read: {error.strerror or error}") from error
    rows = len(next(iter(table.columns.values()), ()))
    if rows < min_rows:
        raise TableError(f"{path} has too few rows to train on: {rows}; at least {min_rows} are needed")
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


def _read_csv(path: Path) -> Table:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = [line for line in csv.reader(file, strict=True) if line]
    except (csv.Error, UnicodeDecodeError) as error:
        raise TableError(f"{path} is not a CSV file in UTF-8: {error}") from error
    if not lines:
        return Table(path, {}, first_row=2)
    header, *rows = lines
    for name in header:
        if header.count(name) > 1:
            raise TableError(f"{path}: the column {excerpt(name)} appears twice in the header")
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise TableError(f"{path}: row {number} has {len(row)} cells, the header has {len(header)}")
    cells: list[Sequence[str]] = list(zip(*rows, strict=True)) if rows else [() for _ in header]
    return Table(path, dict(zip(header, cells, strict=True)), first_row=2)


def _read_json(path: Path) -> Table:
    content = path.read_bytes()
    is_lines = path.suffix.lower() != ".json"
    try:
        if is_lines:
            rows = msgspec.json.Decoder(dict[str, Any]).decode_lines(content)
        else:
            rows = msgspec.json.decode(content, type=list[dict[str, Any]])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        what = "lines of JSON objects" if is_lines else "a JSON array of row objects"
        raise TableError(f"{path} is not {what}: {error}") from error
    names = dict.fromkeys(name for row in rows for name in row)
    table = Table(path, {})
    return replace(table, columns={name: _strings(table, name, [row.get(name) for row in rows]) for name in names})


def _read_parquet(path: Path) -> Table:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise TableError("reading Parquet needs the packages that make install-data installs") from error
    try:
        content = pq.read_table(path)
    except pa.ArrowException as error:
        raise TableError(f"{path} is not a Parquet file: {error}") from error
    table = Table(path, {})
    columns = zip(content.column_names, content.columns, strict=True)
    return replace(table, columns={name: _strings(table, name, cells.to_pylist()) for name, cells in columns})


def _strings(table: Table, name: str, values: Sequence[object]) -> list[str]:
    cells = []
    for index, value in enumerate(values):
        try:
            cells.append(cell_text(value))
        except TypeError as error:
            raise table.cell_error(index, name, f"it holds {error}") from None
    return cells
