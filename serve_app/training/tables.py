"""A table from a file, and what its columns are taken for.

Owns how CSV, Parquet, JSON and JSON lines become cells of text, and the rules by which a column gets its kind or is left
out. Cells are read by the same grammars as those of a request. Knows no model and no particular table.

The rows that the model is fitted on tell what a column is; an empty cell is null in any column. In this order:

- It is left out if its cells say nothing: fewer than two different ones.
- It is boolean if its cells are true and false, yes and no, or t and f, in any case.
- It is numeric, money or percent if each of its cells is a number by that grammar; but left out as an identifier if its cells
  are whole numbers that number the rows: all different, with no more gaps than the rows leave that are held back.
- It is a date if each of its cells is one, by ISO 8601.
- It is refused if nearly all of its cells are one of these: more likely than not, the few others are mistakes.
- It is left out as an identifier if it is text that is different in each row, or of more than 100 different values.
- Otherwise it is categorical. Its levels are sorted, so that the first in the alphabet is the baseline. A level of fewer than
  ``MIN_LEVEL_ROWS`` rows is rare: no level of its own, but treated as one that was never seen (where unknown levels are to be
  refused, it stays one).

A correction by the user goes before all of these.
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
_MAX_MAGNITUDE = 1e100  # squared and summed over any table it still is a finite number


@dataclass(frozen=True)
class Table:
    """A table as text: the cells of each column, by name.

    ``first_row`` is what messages call the first row: 2 in a CSV file, whose header is row 1 as in a spreadsheet.
    """

    path: Path
    columns: Mapping[str, Sequence[str]]
    first_row: int = 1

    def row(self, index: int, names: Iterable[str]) -> dict[str, str | None]:
        """One row as a client would send it, with the columns ``names``."""
        cells = {name: self.columns[name][index] for name in names}
        return {name: None if is_null(cell) else cell for name, cell in cells.items()}

    def error(self, reason: str) -> TableError:
        """Something is wrong with the table."""
        return TableError(f"{self.path}: {reason}")

    def cell_error(self, index: int, column: str, reason: str) -> TableError:
        """Something is wrong with one cell."""
        return self.error(f"row {index + self.first_row}, column {excerpt(column)}: {reason}")


def read_table(path: Path, *, min_rows: int = _MIN_ROWS) -> Table:
    """The table in a file: Parquet by ``.parquet``, JSON by ``.json`` (an array of objects), ``.jsonl`` or ``.ndjson`` (an
    object per line), otherwise CSV with a header, in UTF-8.

    Raises:
        TableError: it cannot be read, is none, or has fewer than ``min_rows`` rows.
    """
    read = {".parquet": _read_parquet, ".json": _read_json, ".jsonl": _read_json, ".ndjson": _read_json}
    try:
        table = read.get(path.suffix.lower(), _read_csv)(path)
    except OSError as error:
        raise TableError(f"{path} cannot be read: {error.strerror or error}") from error
    rows = len(next(iter(table.columns.values()), ()))
    if rows < min_rows:
        raise TableError(f"{path} has too few rows to train on: {rows}; {min_rows} are the least")
    return table


def read_column(table: Table, column: Column) -> Array:
    """The cells of one column, as features.py takes them; a category that is no level is missing.

    Raises:
        TableError: a cell cannot be read; says which.
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
        raise TableError(f"{path} is no CSV file in UTF-8: {error}") from error
    if not lines:
        return Table(path, {}, first_row=2)
    header, *rows = lines
    for name in header:
        if header.count(name) > 1:
            raise TableError(f"{path}: the column {excerpt(name)} stands twice in the header")
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
    return replace(table, columns={name: _texts(table, name, [row.get(name) for row in rows]) for name in names})


def _read_parquet(path: Path) -> Table:
    pq = _parquet()
    import pyarrow as pa

    try:
        content = pq.read_table(path)
    except pa.ArrowException as error:
        raise TableError(f"{path} is no Parquet file: {error}") from error
    table = Table(path, {})
    columns = zip(content.column_names, content.columns, strict=True)
    return replace(table, columns={name: _texts(table, name, cells.to_pylist()) for name, cells in columns})


def _parquet() -> Any:
    try:
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise TableError("Parquet takes what make install-data installs") from error
    return pq


def _texts(table: Table, name: str, values: Sequence[object]) -> list[str]:
    texts = []
    for index, value in enumerate(values):
        try:
            texts.append(cell_text(value))
        except TypeError as error:
            raise table.cell_error(index, name, f"it holds {error}") from None
    return texts
