"""Files of rows, cut into pieces of work: which rows a piece is, and reading them.

Owns how CSV, JSON lines and Parquet are cut without being read as a whole, and how their rows become JSON, typed cells as JSON
has them. Paths may be of any file system that pyarrow knows: ``/data/in``, ``s3://bucket/in``. Knows no model.

CSV is RFC 4180: a line that ends within quotes goes on; a text is cut where a record ends, wherever that is.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from serve_app.errors import TableError
from serve_app.tables import cell_text

__all__ = ["PIECE_BYTES", "Format", "Numbered", "Piece", "Record", "file_system", "plan", "records"]

Format = Literal["parquet", "csv", "jsonl"]
Record = dict[str, Any] | bytes  # by column, or JSON as it stands in the file
Numbered = tuple[int, Record]
_Cut = tuple[int, int, int, tuple[str, ...]]

PIECE_BYTES = 8 * 1024 * 1024
_HEADER_BYTES = 1024 * 1024
_ROWS_AT_ONCE = 4096
_SUFFIXES: dict[str, Format] = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


class Piece(msgspec.Struct, frozen=True):
    """Rows of one file: bytes from ``start`` to ``end``, or Parquet's row groups of these numbers.

    ``name`` is that of its files of answers, ``first_row`` the number of its first row within the file (from 0, blank lines
    counted, a header not), ``header`` are a CSV file's columns.
    """

    name: str
    path: str
    format: Format
    start: int
    end: int
    first_row: int
    header: tuple[str, ...] = ()


def plan(source: str, *, piece_bytes: int = PIECE_BYTES) -> list[Piece]:
    """The pieces of a file, or of all files below a folder that end in .csv, .jsonl, .ndjson or .parquet, in order.

    Raises:
        TableError: there is nothing to score, or a file cannot be read.
    """
    from pyarrow import ArrowException
    from pyarrow.fs import FileSelector, FileType

    try:
        system, root = file_system(source)
        found = system.get_file_info(root)
        files = [found] if found.type == FileType.File else system.get_file_info(FileSelector(root, recursive=True))
        pieces: list[Piece] = []
        for file in sorted(files, key=lambda info: str(info.path)):
            form = _SUFFIXES.get(Path(file.path).suffix.lower())
            if file.type != FileType.File or form is None:
                continue
            cut = {"csv": _cut_csv, "jsonl": _cut_lines, "parquet": _cut_parquet}[form]
            for start, end, first_row, header in cut(system, file.path, piece_bytes):
                pieces.append(Piece(f"{len(pieces):06d}", file.path, form, start, end, first_row, header))
    except (OSError, ArrowException) as error:
        raise TableError(f"{source} cannot be read: {error}") from error
    if not pieces:
        raise TableError(f"{source} holds no rows in files that end in {', '.join(_SUFFIXES)}")
    return pieces


def records(system: Any, piece: Piece, columns: Sequence[str]) -> Iterator[Numbered]:
    """The rows of a piece with their numbers in the file, blank ones left out; of tables the given columns only."""
    if piece.format == "parquet":
        yield from _parquet_records(system, piece, columns)
        return
    with system.open_input_file(piece.path) as file:
        file.seek(piece.start)
        content = file.read(piece.end - piece.start)
    if piece.format == "jsonl":
        for number, line in enumerate(content.split(b"\n"), piece.first_row):
            if line.strip():
                yield number, line
        return
    places = [(name, piece.header.index(name)) for name in columns if name in piece.header]
    # What is no UTF-8 becomes signs that are no number and no known level, rather than the end of all.
    for number, cells in enumerate(csv.reader(io.StringIO(content.decode("utf-8", "replace"), newline="")), piece.first_row):
        if len(cells) == len(piece.header):
            yield number, {name: cells[place] for name, place in places}
        elif cells:
            yield number, msgspec.json.encode(f"{len(cells)} cells, the header has {len(piece.header)}")


def _parquet_records(system: Any, piece: Piece, columns: Sequence[str]) -> Iterator[Numbered]:
    import pyarrow.parquet as pq

    number = piece.first_row
    with system.open_input_file(piece.path) as opened, pq.ParquetFile(opened) as file:
        names = [name for name in columns if name in file.schema_arrow.names]
        groups = list(range(piece.start, piece.end))
        for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=groups, columns=names):
            cells = [[_json_cell(cell) for cell in column.to_pylist()] for column in batch.columns]
            for row in range(batch.num_rows):
                yield number, {name: column[row] for name, column in zip(names, cells, strict=True)}
                number += 1


def _json_cell(value: Any) -> Any:
    """A typed value as JSON has it; one that JSON cannot have as a text that no number is."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None if math.isnan(value) else str(value)
    try:
        return cell_text(value)
    except TypeError as error:
        return [str(error)]


def _cut_csv(system: Any, path: str, piece_bytes: int) -> Iterator[_Cut]:
    with system.open_input_file(path) as file:
        head = file.read(_HEADER_BYTES)
    ends, _ = _record_ends(head, is_quoted=True)
    start = int(ends[0]) + 1 if len(ends) else len(head)
    names = tuple(next(csv.reader(io.StringIO(head[:start].decode("utf-8-sig"), newline="")), ()))
    for begin, end, first_row in _cut_text(system, path, start, piece_bytes, is_quoted=True):
        yield begin, end, first_row, names


def _cut_lines(system: Any, path: str, piece_bytes: int) -> Iterator[_Cut]:
    for begin, end, first_row in _cut_text(system, path, 0, piece_bytes, is_quoted=False):
        yield begin, end, first_row, ()


def _cut_parquet(system: Any, path: str, piece_bytes: int) -> Iterator[_Cut]:
    import pyarrow.parquet as pq

    with system.open_input_file(path) as opened, pq.ParquetFile(opened) as file:
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    start = first_row = held = rows = 0
    for number, group in enumerate(groups):
        held += group.total_byte_size
        rows += group.num_rows
        if held >= piece_bytes or number == len(groups) - 1:
            yield start, number + 1, first_row, ()
            start, first_row, held, rows = number + 1, first_row + rows, 0, 0


def _cut_text(system: Any, path: str, start: int, piece_bytes: int, *, is_quoted: bool) -> Iterator[tuple[int, int, int]]:
    """Start, end and the number of the first record of pieces that end where a record does, of about the given size."""
    with system.open_input_file(path) as file:
        size = file.size()
        file.seek(start)
        begin = at = start
        first_row = 0
        is_open = False  # within quotes
        while at < size:
            content = file.read(piece_bytes)
            if not content:
                break
            ends, is_open = _record_ends(content, is_quoted=is_quoted, is_open=is_open)
            if len(ends) and at + len(content) < size:  # the rest of the file is one piece, with or without a line end
                end = at + int(ends[-1]) + 1
                yield begin, end, first_row
                begin, first_row = end, first_row + len(ends)
            at += len(content)
        if begin < size:
            yield begin, size, first_row


def _record_ends(content: bytes, *, is_quoted: bool, is_open: bool = False) -> tuple[NDArray[np.intp], bool]:
    """Where lines end that are not within quotes, and whether the content ends within some."""
    signs = np.frombuffer(content, dtype=np.uint8)
    is_end = signs == ord("\n")
    if is_quoted:
        quotes = np.cumsum(signs == ord('"'), dtype=np.uint8) + np.uint8(is_open)  # wraps around, but stays odd or even
        is_end &= quotes % 2 == 0
        is_open = bool(quotes[-1] % 2) if len(quotes) else is_open
    return np.flatnonzero(is_end), is_open


def file_system(path: str) -> tuple[Any, str]:
    """Where a path is, and its name there."""
    from pyarrow.fs import FileSystem, LocalFileSystem

    if "://" in path:
        system, name = FileSystem.from_uri(path)
        return system, name
    return LocalFileSystem(), str(Path(path).resolve())
