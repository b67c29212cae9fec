"""Files of answers: Parquet, CSV or JSON lines, each of which appears whole or not at all.

Owns their columns and types, and how a file is written by a worker that may be stopped, or work beside another on the same.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import msgspec

from serve_app.components.compiled import Components
from serve_app.offline.pieces import Format

__all__ = ["LinesWriter", "answers_writer", "columns_of", "write_whole"]


def columns_of(components: Components, keep: Sequence[str]) -> dict[str, str]:
    """The columns of the answers, and what is in them: text, integer, number."""
    classes = components.manifest.classes
    probabilities = ["positiveclass"] if len(classes) == 2 else [str(label) for label in classes]
    kinds = {bool: "boolean", int: "integer", float: "number"}
    return {
        "file": "text",
        "row": "integer",
        **dict.fromkeys(keep, "text"),
        **{f"probability_{name}": "number" for name in probabilities},
        "probability_predictedclass": "number",
        "predicted_class": kinds.get(type(classes[0]), "text"),
    }


class LinesWriter:
    """JSON lines into a file that is there once the block has ended well, and then only if something was written."""

    def __init__(self, system: Any, path: str) -> None:
        self._system, self._path = system, path
        self._lines = io.BytesIO()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._lines.tell():
            write_whole(self._system, self._path, self._lines.getvalue())

    def write(self, rows: Iterable[dict[str, Any]]) -> None:
        """Adds rows."""
        for row in rows:
            self._lines.write(msgspec.json.encode(row) + b"\n")


class _TextWriter(LinesWriter):
    """Answers as JSON lines or CSV."""

    def __init__(self, system: Any, path: str, columns: Mapping[str, str], *, is_csv: bool) -> None:
        super().__init__(system, path)
        self._is_csv = is_csv
        if is_csv:
            self._write_csv([tuple(columns)])

    def write_columns(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Adds rows, given by column."""
        rows = zip(*columns.values(), strict=True)
        if self._is_csv:
            self._write_csv(rows)
        else:
            self.write(dict(zip(columns, row, strict=True)) for row in rows)

    def _write_csv(self, rows: Iterable[Sequence[Any]]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(rows)
        self._lines.write(text.getvalue().encode())


class _ParquetWriter:
    """Answers as Parquet."""

    def __init__(self, system: Any, path: str, columns: Mapping[str, str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = {"text": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}
        self._schema = pa.schema([(name, types[kind]) for name, kind in columns.items()])
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

    def write_columns(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Adds rows, given by column."""
        self._writer.write_table(self._table(dict(columns), schema=self._schema))


def answers_writer(form: Format, system: Any, path: str, columns: Mapping[str, str]) -> _ParquetWriter | _TextWriter:
    """A file of answers with these columns (see ``columns_of``): filled within a block, there once that has ended well."""
    if form == "parquet":
        return _ParquetWriter(system, path, columns)
    return _TextWriter(system, path, columns, is_csv=form == "csv")


def write_whole(system: Any, path: str, content: bytes) -> None:
    """A file that appears at once: two workers with the same piece write the same."""
    system.create_dir(path.rpartition("/")[0], recursive=True)
    scratch = f"{path}.{os.getpid()}"
    with system.open_output_stream(scratch) as file:
        file.write(content)
    system.move(scratch, path)
