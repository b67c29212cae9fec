"""Writing files of answers: Parquet, CSV or JSON lines, each of which appears whole or not at all.

Owns the columns and types of the answers, and how a file is written by a worker that may be stopped, or that may work on the
same piece as another. Scores nothing.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Self

import msgspec

from serve_app.components.compiled import Components
from serve_app.offline.pieces import Format

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

__all__ = ["Cell", "LinesWriter", "answers_writer", "columns_of", "write_whole"]

Cell = str | int | float | bool | None
_CellType = Literal["string", "integer", "number", "boolean"]


def columns_of(components: Components, keep: Sequence[str]) -> dict[str, _CellType]:
    """The columns of the answers and their types; ``keep`` are columns of the input."""
    classes = components.manifest.classes
    probabilities = ["positiveclass"] if len(classes) == 2 else [str(label) for label in classes]
    types: dict[type, _CellType] = {bool: "boolean", int: "integer", float: "number"}
    columns: dict[str, _CellType] = {"file": "string", "row": "integer"}
    columns |= dict.fromkeys(keep, "string")
    columns |= dict.fromkeys([f"probability_{name}" for name in (*probabilities, "predictedclass")], "number")
    return columns | {"predicted_class": types.get(type(classes[0]), "string")}


class LinesWriter:
    """Writes JSON lines; the file appears if the block succeeds and something was written."""

    def __init__(self, system: FileSystem, path: str) -> None:
        self._system, self._path = system, path
        self._content = io.BytesIO()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._content.tell():
            write_whole(self._system, self._path, self._content.getvalue())

    def write(self, rows: Iterable[object]) -> None:
        """Adds rows."""
        for row in rows:
            self._content.write(msgspec.json.encode(row) + b"\n")


class _RowsWriter(LinesWriter):
    """Answers as JSON lines or CSV."""

    def __init__(self, system: FileSystem, path: str, columns: Mapping[str, _CellType], *, is_csv: bool) -> None:
        super().__init__(system, path)
        self._is_csv = is_csv
        if is_csv:
            self._write_csv([tuple(columns)])

    def write_columns(self, columns: Mapping[str, Sequence[Cell]]) -> None:
        """Adds rows, given by column."""
        rows = zip(*columns.values(), strict=True)
        if self._is_csv:
            self._write_csv(rows)
        else:
            self.write(dict(zip(columns, row, strict=True)) for row in rows)

    def _write_csv(self, rows: Iterable[Sequence[Cell]]) -> None:
        lines = io.StringIO(newline="")
        csv.writer(lines, lineterminator="\n").writerows(rows)
        self._content.write(lines.getvalue().encode())


class _ParquetWriter:
    """Answers as Parquet."""

    def __init__(self, system: FileSystem, path: str, columns: Mapping[str, _CellType]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = {"string": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}
        self._schema = pa.schema([(name, types[type_]) for name, type_ in columns.items()])
        self._table = pa.table
        self._system, self._path = system, path
        self._content = io.BytesIO()
        self._writer = pq.ParquetWriter(self._content, self._schema)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._writer.close()
        if kind is None:
            write_whole(self._system, self._path, self._content.getvalue())

    def write_columns(self, columns: Mapping[str, Sequence[Cell]]) -> None:
        """Adds rows, given by column."""
        self._writer.write_table(self._table(dict(columns), schema=self._schema))


def answers_writer(
    form: Format, system: FileSystem, path: str, columns: Mapping[str, _CellType]
) -> _ParquetWriter | _RowsWriter:
    """A writer of answers with these columns (see ``columns_of``); the file appears if the ``with`` block succeeds."""
    if form == "parquet":
        return _ParquetWriter(system, path, columns)
    return _RowsWriter(system, path, columns, is_csv=form == "csv")


def write_whole(system: FileSystem, path: str, content: bytes) -> None:
    """Writes a file that appears at once. Two workers with the same piece may do so: they write the same."""
    system.create_dir(path.rpartition("/")[0], recursive=True)
    scratch = f"{path}.{os.getpid()}"
    with system.open_output_stream(scratch) as file:
        file.write(content)
    system.move(scratch, path)
