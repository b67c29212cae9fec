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
import datetime as dt
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import yaml
from numpy.typing import NDArray

from serve_app.errors import SettingsError, TableError
from serve_app.scoring.cells import NotANumberError, excerpt
from serve_app.scoring.schema import READERS, Column, Kind, NullPolicy, Schema, UnknownPolicy

__all__ = [
    "MAX_LEVELS",
    "MIN_LEVEL_ROWS",
    "Correction",
    "Inferred",
    "Table",
    "cell_text",
    "infer_schema",
    "is_null",
    "read_column",
    "read_corrections",
    "read_table",
]

MAX_LEVELS = 100
MIN_LEVEL_ROWS = 5
_MIN_ROWS = 20
_MISTAKES_SHARE = 0.05
_MAX_MAGNITUDE = 1e100  # squared and summed over any table it still is a finite number
_PLAIN_KINDS: tuple[Kind, ...] = ("boolean", "numeric", "money", "percent", "date")
_INTEGER = re.compile(r"[+-]?\d{1,15}", re.ASCII)


@dataclass(frozen=True)
class Table:
    """A table as text: the cells of each column, by name.

    ``first_row`` is what messages call the first row: 2 in a CSV file, whose header is row 1 as in a spreadsheet.
    """

    path: Path
    columns: Mapping[str, Sequence[str]]
    first_row: int = 1

    def error(self, reason: str) -> TableError:
        """Something is wrong with the table."""
        return TableError(f"{self.path}: {reason}")

    def cell_error(self, index: int, column: str, reason: str) -> TableError:
        """Something is wrong with one cell."""
        return self.error(f"row {index + self.first_row}, column {excerpt(column)}: {reason}")


class Correction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a user says of a column; None leaves it to the rules."""

    kind: Kind | Literal["leave_out"] | None = None
    null: NullPolicy | None = msgspec.field(default=None, name="missing")  # in YAML, null is no word
    unknown: UnknownPolicy | None = None


@dataclass(frozen=True)
class Inferred:
    """The columns that a model may use, and why each other one is left out, by name."""

    schema: Schema
    left_out: Mapping[str, str]


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


def read_corrections(path: Path) -> dict[str, Correction]:
    """Corrections by column, of a YAML file: a kind, ``leave_out``, or a mapping of ``kind``, ``missing`` and ``unknown``.

    Raises:
        SettingsError: it cannot be read, or says something else.
    """
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        corrections = msgspec.convert(said, dict[str, str | Correction])
        return {
            name: msgspec.convert({"kind": correction}, Correction) if isinstance(correction, str) else correction
            for name, correction in corrections.items()
        }
    except (OSError, UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError) as error:
        raise SettingsError(f"{path} cannot be used: {error}") from error


def infer_schema(
    table: Table,
    target: str,
    rows: Sequence[int],
    *,
    unknown: UnknownPolicy = "as_null",
    corrections: Mapping[str, Correction] | None = None,
) -> Inferred:
    """What the columns are, told by the given rows.

    Raises:
        TableError: a column that nearly is a number holds something else; or no column is left.
        SettingsError: a correction is of a column that the table does not have, or is its target.
    """
    corrections = corrections or {}
    for name in corrections:
        if name not in table.columns or name == target:
            raise SettingsError(f"a column {excerpt(name)} is corrected, which {table.path} does not have beside its target")
    columns: list[Column] = []
    left_out: dict[str, str] = {}
    for name, cells in table.columns.items():
        if name == target:
            continue
        correction = corrections.get(name, Correction())
        counts = Counter(cells[row] for row in rows if not is_null(cells[row]))
        found = _infer_column(table, name, counts, correction, correction.unknown or unknown)
        if isinstance(found, Column):
            columns.append(found)
        else:
            left_out[name] = found
    if not columns:
        raise table.error("no column besides the target can be used")
    return Inferred(Schema(tuple(columns)), left_out)


def read_column(table: Table, column: Column) -> NDArray[np.float64]:
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


def cell_text(value: object) -> str:
    """A typed value as the text that stands for it in JSON: null is empty, numbers have all their digits, dates are ISO 8601.

    Raises:
        TypeError: it is nested or binary.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dt.date, dt.datetime)):
        return value.isoformat()
    if isinstance(value, (str, int, float)) or type(value).__name__ == "Decimal":
        return str(value)
    raise TypeError(f"a {type(value).__name__}, which is no cell of a table")


def _infer_column(
    table: Table, name: str, counts: Counter[str], correction: Correction, unknown: UnknownPolicy
) -> Column | str:
    """What a column with so many rows of each different cell is, or why it is left out."""
    if correction.kind == "leave_out":
        return "as you said"
    if len(counts) < 2:
        return f"it holds nothing but {excerpt(next(iter(counts)))}" if counts else "it is empty"
    null = correction.null or "impute"
    kind = correction.kind or _plain_kind(table, name, counts)
    if kind == "categorical" or kind is None:
        return _categorical(name, counts, null=null, unknown=unknown, is_corrected=kind is not None)
    if correction.kind is None and kind == "numeric" and _numbers_the_rows(counts):
        return "it numbers the rows: an identifier"
    return Column(name, kind, null=null)


def _plain_kind(table: Table, name: str, counts: Counter[str]) -> Kind | None:
    for kind in _PLAIN_KINDS:
        mistakes = [cell for cell in counts if not _is_readable(kind, cell)]
        if not mistakes:
            return kind
        if len(mistakes) <= _MISTAKES_SHARE * len(counts):
            what = {"boolean": "boolean", "date": "date"}.get(kind, "number")
            reason = f"{excerpt(mistakes[0])} is not a {what}, as nearly all of the column's other cells are"
            raise table.cell_error(table.columns[name].index(mistakes[0]), name, reason)
    return None


def _categorical(
    name: str, counts: Counter[str], *, null: NullPolicy, unknown: UnknownPolicy, is_corrected: bool
) -> Column | str:
    if not is_corrected:
        if len(counts) > MAX_LEVELS:
            return f"it has {len(counts)} different texts: an identifier, or free text"
        if len(counts) == counts.total():
            return "its texts are all different: an identifier"
    levels = sorted(level for level, rows in counts.items() if rows >= MIN_LEVEL_ROWS or unknown == "reject")
    if len(levels) < 2:
        return f"fewer than two of its texts stand in {MIN_LEVEL_ROWS} rows or more"
    return Column(name, "categorical", levels=tuple(levels), null=null, unknown=unknown)


def _is_readable(kind: Kind, cell: str) -> bool:
    try:
        READERS[kind](cell)
    except NotANumberError:
        return False
    return True


def _numbers_the_rows(counts: Counter[str]) -> bool:
    """Whether the cells are whole numbers that leave out no more of a sequence than the rows that are held back do."""
    rows = counts.total()
    if len(counts) < rows or not all(_INTEGER.fullmatch(cell.strip()) for cell in counts):
        return False
    numbers = [int(cell) for cell in counts]
    return max(numbers) - min(numbers) < 1.5 * rows


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
