"""Pieces of files of rows: how a file is cut into pieces of work, and how the rows of a piece are read.

Owns the formats (CSV, JSON lines, Parquet), how each is cut without being read as a whole, and how typed cells become JSON.
Paths may be on any file system that pyarrow knows: ``/data/in``, ``s3://bucket/in``. Knows no model.

CSV is read as ``csv.reader`` reads it: RFC 4180 and what comes close. A quoted cell may contain line ends, and a quote inside a
cell that does not start with one (``3" pipe``) is an ordinary character. Files are cut only where a record ends.
"""

from __future__ import annotations

import codecs
import csv
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import msgspec

from serve_app.errors import TableError
from serve_app.offline.csv_records import csv_ends, csv_records, line_ends
from serve_app.scoring.cells import cell_text
from serve_app.scoring.separators import find_separator

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

__all__ = ["PIECE_BYTES", "Format", "Numbered", "Piece", "Record", "file_system", "plan", "records"]

Format = Literal["parquet", "csv", "jsonl"]
JSONValue: TypeAlias = "str | float | bool | list[JSONValue] | dict[str, JSONValue] | None"
Record: TypeAlias = dict[str, JSONValue] | bytes | str
"""A row: its cells by column, or a line of JSON as it is in the file, or the reason why it is not a row."""
Numbered = tuple[int, Record]
"""A row with its number in the file, from 0."""
PIECE_BYTES = 8 * 1024 * 1024
_HEADER_BYTES = 1024 * 1024
_SNIFFED_BYTES = 64 * 1024
_ROWS_AT_ONCE = 4096
_SUFFIXES: dict[str, Format] = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


class Piece(msgspec.Struct, frozen=True):
    """Some rows of one file: the bytes from ``start`` to ``end``, or the Parquet row groups with these numbers.

    ``name`` is the stem of its output files. ``first_row`` is the number of its first row in the file, from 0; blank lines
    count, a header does not. ``header`` holds the columns of a CSV file, ``separator`` the character between its cells.
    ``file_bytes`` and ``changed_ns`` show whether the file has been replaced since.
    """

    name: str
    path: str
    format: Format
    start: int
    end: int
    first_row: int
    header: tuple[str, ...] = ()
    file_bytes: int | None = None
    changed_ns: int | None = None
    separator: str = ","


class _Cut(NamedTuple):
    """Where a piece starts and ends (in bytes or row groups), and what Piece says about it."""

    start: int
    end: int
    first_row: int
    header: tuple[str, ...] = ()
    separator: str = ","


def plan(source: str, *, piece_bytes: int = PIECE_BYTES) -> list[Piece]:
    """The pieces of a file, or of all .csv, .tsv, .jsonl, .ndjson and .parquet files below a folder, ordered by path.

    Raises:
        TableError: there are no rows, or a file cannot be read.
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
            for one in cut(system, file.path, piece_bytes):
                name = f"{len(pieces):06d}"
                pieces.append(Piece(name, file.path, form, *one[:4], file.size, file.mtime_ns, one.separator))
    except (OSError, ArrowException) as error:
        raise TableError(f"{source} cannot be read: {error}") from error
    if not pieces:
        raise TableError(f"{source} holds no rows in files that end in {', '.join(_SUFFIXES)}; unpack compressed files first")
    return pieces


def records(system: FileSystem, piece: Piece, columns: Sequence[str]) -> Iterator[Numbered]:
    """The rows of a piece with their numbers, without blank lines; CSV and Parquet rows hold only the given columns."""
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
    for number, cells in enumerate(csv_records(content, piece.separator), piece.first_row):
        if cells is None:
            yield number, "a quote opens a cell and does not close"
        elif len(cells) == len(piece.header):
            yield number, {name: cells[place] for name, place in places}
        elif cells:
            yield number, f"{len(cells)} cells, the header has {len(piece.header)}"


def _parquet_records(system: FileSystem, piece: Piece, columns: Sequence[str]) -> Iterator[Numbered]:
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


def _json_cell(value: Any) -> JSONValue:
    """A typed value as JSON.

    A value that JSON does not have is put into an array, which is neither a number nor a category, so that its row is refused.
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None if math.isnan(value) else str(value)
    if isinstance(value, (list, dict)):
        nested: JSONValue = msgspec.json.decode(msgspec.json.encode(value, enc_hook=str))
        return nested
    try:
        return cell_text(value)
    except TypeError as error:
        return [str(error)]


def _cut_csv(system: FileSystem, path: str, piece_bytes: int) -> Iterator[_Cut]:
    with system.open_input_file(path) as file:
        head = file.read(_HEADER_BYTES)
    bom_bytes = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
    separator = find_separator(head[bom_bytes:_SNIFFED_BYTES].decode(errors="replace"))
    ends, stray = csv_ends(head[bom_bytes:], separator, is_all=True)
    if stray[:1] == [0]:
        raise TableError(f"{path}: a quote in the header does not close")
    start = bom_bytes + int(ends[0]) + 1 if len(ends) else len(head)
    try:
        names = tuple(next(csv.reader(io.StringIO(head[bom_bytes:start].decode(), newline=""), delimiter=separator), ()))
    except UnicodeDecodeError as error:
        raise TableError(f"{path}: the header is not in UTF-8, the encoding that scoring reads: {error}") from error
    for cut in _cut_lines(system, path, piece_bytes, start=start, separator=separator):
        yield cut._replace(header=names, separator=separator)


def _cut_parquet(system: FileSystem, path: str, piece_bytes: int) -> Iterator[_Cut]:
    import pyarrow.parquet as pq

    with system.open_input_file(path) as opened, pq.ParquetFile(opened) as file:
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    start = first_row = held = rows = 0
    for number, group in enumerate(groups):
        held += group.total_byte_size
        rows += group.num_rows
        if held >= piece_bytes or number == len(groups) - 1:
            yield _Cut(start, number + 1, first_row)
            start, first_row, held, rows = number + 1, first_row + rows, 0, 0


def _cut_lines(
    system: FileSystem, path: str, piece_bytes: int, *, start: int = 0, separator: str | None = None
) -> Iterator[_Cut]:
    """Pieces of about the given size that end where a record ends.

    ``start`` is the first byte after a header, ``separator`` that of a CSV file.
    """
    with system.open_input_file(path) as file:
        size = file.size()
        begin, first_row, length = start, 0, piece_bytes
        while begin < size:
            file.seek(begin)
            content = file.read(length)
            if len(content) < length or begin + length >= size:  # the rest is one piece, with or without a line end
                yield _Cut(begin, size, first_row)
                return
            ends = line_ends(content) if separator is None else csv_ends(content, separator, is_all=False)[0]
            if len(ends):
                end = begin + int(ends[-1]) + 1
                yield _Cut(begin, end, first_row)
                begin, first_row, length = end, first_row + len(ends), piece_bytes
            else:
                length *= 2  # the record is longer than a piece


def file_system(path: str) -> tuple[FileSystem, str]:
    """The file system that a path is on, and the path within it."""
    from pyarrow.fs import FileSystem, LocalFileSystem

    if "://" in path:
        system, name = FileSystem.from_uri(path)
        return system, name
    return LocalFileSystem(), str(Path(path).resolve())
