"""Files of rows, cut into pieces of work: which rows a piece is, and reading them.

Owns how CSV, JSON lines and Parquet are cut without being read as a whole, and how their rows become JSON, typed cells as JSON
has them. Paths may be of any file system that pyarrow knows: ``/data/in``, ``s3://bucket/in``. Knows no model.

CSV is what csv.reader takes it for, RFC 4180 and what comes close: a line that ends within quotes goes on, and a quote within a
cell that does not start with one (``3" pipe``) is a sign like any other. A text is cut where a record ends, wherever that is.
"""

from __future__ import annotations

import codecs
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
from serve_app.training.tables import cell_text

__all__ = ["PIECE_BYTES", "Format", "Numbered", "Piece", "Record", "file_system", "plan", "records"]

Format = Literal["parquet", "csv", "jsonl"]
Record = dict[str, Any] | bytes | str  # by column, or JSON as it stands in the file, or why it is no row
Numbered = tuple[int, Record]
_Cut = tuple[int, int, int, tuple[str, ...]]

PIECE_BYTES = 8 * 1024 * 1024
_HEADER_BYTES = 1024 * 1024
_ROWS_AT_ONCE = 4096
_MAX_QUOTED_BYTES = 1024 * 1024
_BEFORE_A_CELL = b",\n\r"
_SUFFIXES: dict[str, Format] = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


class Piece(msgspec.Struct, frozen=True):
    """Rows of one file: bytes from ``start`` to ``end``, or Parquet's row groups of these numbers.

    ``name`` is that of its files of answers, ``first_row`` the number of its first row within the file (from 0, blank lines
    counted, a header not), ``header`` are a CSV file's columns. ``file_bytes`` and ``changed_ns`` tell the file from one that
    takes its place.
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
                name = f"{len(pieces):06d}"
                pieces.append(Piece(name, file.path, form, start, end, first_row, header, file.size, file.mtime_ns))
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
    for number, cells in enumerate(_csv_records(content), piece.first_row):
        if cells is None:
            yield number, "a quote opens a cell and does not close"
        elif len(cells) == len(piece.header):
            yield number, {name: cells[place] for name, place in places}
        elif cells:
            yield number, f"{len(cells)} cells, the header has {len(piece.header)}"


def _csv_records(content: bytes) -> Iterator[list[str] | None]:
    """The cells of each record; None where a quote does not close."""
    # A long cell, of a column that may not even be used, is no error.
    csv.field_size_limit(max(csv.field_size_limit(), len(content)))
    ends, stray = _csv_ends(content, is_all=True)
    begin = 0
    for number in stray:
        spoilt_from = int(ends[number - 1]) + 1 if number else 0
        yield from _csv_cells(content[begin:spoilt_from])
        yield None
        begin = int(ends[number]) + 1 if number < len(ends) else len(content)
    yield from _csv_cells(content[begin:] if begin else content)


def _csv_cells(content: bytes) -> Iterator[list[str]]:
    # What is no UTF-8 becomes signs that are no number and no known level, rather than the end of all.
    return csv.reader(io.StringIO(content.decode("utf-8", "replace"), newline=""))


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
    """A typed value as JSON has it; one that JSON cannot have within an array, which is neither a number nor a category."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None if math.isnan(value) else str(value)
    if isinstance(value, (list, dict)):
        return msgspec.json.decode(msgspec.json.encode(value, enc_hook=str))
    try:
        return cell_text(value)
    except TypeError as error:
        return [str(error)]


def _cut_csv(system: Any, path: str, piece_bytes: int) -> Iterator[_Cut]:
    with system.open_input_file(path) as file:
        head = file.read(_HEADER_BYTES)
    mark = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
    ends, stray = _csv_ends(head[mark:], is_all=True)
    if stray[:1] == [0]:
        raise TableError(f"{path}: a quote in the header does not close")
    start = mark + int(ends[0]) + 1 if len(ends) else len(head)
    try:
        names = tuple(next(csv.reader(io.StringIO(head[mark:start].decode(), newline="")), ()))
    except UnicodeDecodeError as error:
        raise TableError(f"{path}: the header is not in UTF-8: {error}") from error
    for begin, end, first_row in _cut_text(system, path, start, piece_bytes, is_csv=True):
        yield begin, end, first_row, names


def _cut_lines(system: Any, path: str, piece_bytes: int) -> Iterator[_Cut]:
    for begin, end, first_row in _cut_text(system, path, 0, piece_bytes, is_csv=False):
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


def _cut_text(system: Any, path: str, start: int, piece_bytes: int, *, is_csv: bool) -> Iterator[tuple[int, int, int]]:
    """Start, end and the number of the first record of pieces that end where a record does, of about the given size."""
    with system.open_input_file(path) as file:
        size = file.size()
        begin, first_row, length = start, 0, piece_bytes
        while begin < size:
            file.seek(begin)
            content = file.read(length)
            if len(content) < length or begin + length >= size:  # the rest is one piece, with or without a line end
                yield begin, size, first_row
                return
            ends = _csv_ends(content, is_all=False)[0] if is_csv else _line_ends(content)
            if len(ends):
                end = begin + int(ends[-1]) + 1
                yield begin, end, first_row
                begin, first_row, length = end, first_row + len(ends), piece_bytes
            else:
                length *= 2  # a record that is longer than a piece


def _csv_ends(content: bytes, *, is_all: bool) -> tuple[NDArray[np.intp], list[int]]:
    """Where the records of a text end that starts with one, and which of them, by number, open a quote that does not close.

    As csv.reader has it, a quote opens a cell at the cell's start only, and is a sign like any other elsewhere; within quotes
    two of them stand for one. A quote that is not closed within ``_MAX_QUOTED_BYTES`` spoils its line, not all that follow.

    Args:
        content: begins where a record does.
        is_all: whether nothing follows it that could close a quote, or belong to a line's end.
    """
    ends = _line_ends(content, at_returns=b"\r" in content)
    if not is_all and len(ends) and content[ends[-1]] == ord("\r") and ends[-1] == len(content) - 1:
        ends = ends[:-1]  # the next byte may be its line feed
    signs = np.frombuffer(content, dtype=np.uint8)
    quotes = np.flatnonzero(signs == ord('"'))
    stray: list[int] = []
    if not _is_plainly_quoted(signs, quotes, is_all=is_all):
        found, stray = _quoted_cells(content, quotes.tolist(), ends, is_all=is_all)
        quotes = np.array(found, dtype=np.intp)
    ends = ends[np.searchsorted(quotes, ends) % 2 == 0]
    return ends, np.searchsorted(ends, stray).tolist()


def _line_ends(content: bytes, *, at_returns: bool = False) -> NDArray[np.intp]:
    """Where lines end: at line feeds, and if asked for at carriage returns that no line feed follows."""
    signs = np.frombuffer(content, dtype=np.uint8)
    is_end = signs == ord("\n")
    if at_returns:
        is_lone = signs == ord("\r")
        is_lone[:-1] &= ~is_end[1:]
        is_end |= is_lone
    return np.flatnonzero(is_end)


def _is_plainly_quoted(signs: NDArray[np.uint8], quotes: NDArray[np.intp], *, is_all: bool) -> bool:
    """Whether each second quote closes what the one before it opened, as in what programs write, and soon enough."""
    if not len(quotes):
        return True
    opening, closing = quotes[::2], quotes[1::2]
    before = np.where(opening == 0, np.uint8(ord(",")), signs[opening - 1])
    goes_on = before == ord('"')  # the second of two quotes that stand for one
    if not (goes_on | np.isin(before, list(_BEFORE_A_CELL))).all():
        return False
    first = np.flatnonzero(~goes_on)
    last = np.append(first[1:], len(opening)) - 1
    if len(closing) < len(opening):  # the last one is open where the content ends
        if is_all or len(signs) - opening[first[-1]] > _MAX_QUOTED_BYTES:
            return False
        first, last = first[:-1], last[:-1]
    return not len(first) or int((closing[last] - opening[first]).max()) <= _MAX_QUOTED_BYTES


def _quoted_cells(
    content: bytes, quotes: list[int], line_ends: NDArray[np.intp], *, is_all: bool
) -> tuple[list[int], list[int]]:
    """Where quoted cells begin and end, in turn, and where quotes stand that do not close; one by one."""
    cells: list[int] = []
    stray: list[int] = []
    at, spoilt_to = 0, -1
    while at < len(quotes):
        start = quotes[at]
        at += 1
        if start <= spoilt_to or (start and content[start - 1] not in _BEFORE_A_CELL):
            continue
        close = at
        while close + 1 < len(quotes) and quotes[close + 1] == quotes[close] + 1:
            close += 2
        if close < len(quotes) and quotes[close] - start <= _MAX_QUOTED_BYTES:
            cells += [start, quotes[close]]
            at = close + 1
        elif close >= len(quotes) and not is_all and len(content) - start <= _MAX_QUOTED_BYTES:
            cells.append(start)  # what follows tells
            break
        else:
            stray.append(start)
            following = int(np.searchsorted(line_ends, start))
            spoilt_to = int(line_ends[following]) if following < len(line_ends) else len(content)
    return cells, stray


def file_system(path: str) -> tuple[Any, str]:
    """Where a path is, and its name there."""
    from pyarrow.fs import FileSystem, LocalFileSystem

    if "://" in path:
        system, name = FileSystem.from_uri(path)
        return system, name
    return LocalFileSystem(), str(Path(path).resolve())
