"""Records of CSV: where they end, and their cells, exactly as ``csv.reader`` reads them.

Owns what a quote means, in one pass of numpy where every quote is written the way programs write them, else quote by quote.
Works on bytes that start where a record starts; knows no files.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["csv_ends", "csv_records", "line_ends"]

_MAX_QUOTED_BYTES = 1024 * 1024


def csv_records(content: bytes, separator: str = ",") -> Iterator[list[str] | None]:
    """The cells of each record; None where a quote does not close."""
    # A long cell is no error: its column may not even be used.
    csv.field_size_limit(max(csv.field_size_limit(), len(content)))
    ends, stray = csv_ends(content, separator, is_all=True)
    begin = 0
    for number in stray:
        spoilt_from = int(ends[number - 1]) + 1 if number else 0
        yield from _csv_cells(content[begin:spoilt_from], separator)
        yield None
        begin = int(ends[number]) + 1 if number < len(ends) else len(content)
    yield from _csv_cells(content[begin:] if begin else content, separator)


def _csv_cells(content: bytes, separator: str) -> Iterator[list[str]]:
    # Bytes that are not UTF-8 spoil their own cell only, which is then neither a number nor a known level.
    return csv.reader(io.StringIO(content.decode("utf-8", "replace"), newline=""), delimiter=separator)


def csv_ends(content: bytes, separator: str = ",", *, is_all: bool) -> tuple[NDArray[np.intp], list[int]]:
    """Where the records end, and the numbers of those that open a quote and do not close it.

    As in ``csv.reader``, a quote opens a cell only at the cell's start and is an ordinary character elsewhere; within quotes,
    two quotes mean one. A quote that is not closed within 1 MiB spoils its own line, not all that follow.

    Args:
        content: starts where a record starts.
        separator: of cells, one ASCII character.
        is_all: whether this is the end of the file, so that nothing follows that could close a quote or complete a line end.
    """
    ends = line_ends(content, at_returns=b"\r" in content)
    if not is_all and len(ends) and content[ends[-1]] == ord("\r") and ends[-1] == len(content) - 1:
        ends = ends[:-1]  # the next byte may be its line feed
    characters = np.frombuffer(content, dtype=np.uint8)
    quotes = np.flatnonzero(characters == ord('"'))
    stray: list[int] = []
    if not _is_plainly_quoted(characters, quotes, separator, is_all=is_all):
        found, stray = _quoted_cells(content, quotes.tolist(), ends, separator, is_all=is_all)
        quotes = np.array(found, dtype=np.intp)
    ends = ends[np.searchsorted(quotes, ends) % 2 == 0]
    return ends, np.searchsorted(ends, stray).tolist()


def line_ends(content: bytes, *, at_returns: bool = False) -> NDArray[np.intp]:
    """Where lines end: at line feeds and, if asked for, at carriage returns that are not followed by a line feed."""
    characters = np.frombuffer(content, dtype=np.uint8)
    is_end = characters == ord("\n")
    if at_returns:
        is_lone = characters == ord("\r")
        is_lone[:-1] &= ~is_end[1:]
        is_end |= is_lone
    return np.flatnonzero(is_end)


def _before_a_cell(separator: str) -> bytes:
    return separator.encode() + b"\n\r"


def _is_plainly_quoted(characters: NDArray[np.uint8], quotes: NDArray[np.intp], separator: str, *, is_all: bool) -> bool:
    """Whether every second quote closes the one before it within 1 MiB, as in files that programs write."""
    if not len(quotes):
        return True
    opening, closing = quotes[::2], quotes[1::2]
    before = np.where(opening == 0, np.uint8(ord(separator)), characters[opening - 1])
    continues = before == ord('"')  # the second of two quotes that mean one
    if not (continues | np.isin(before, list(_before_a_cell(separator)))).all():
        return False
    first = np.flatnonzero(~continues)
    last = np.append(first[1:], len(opening)) - 1
    if len(closing) < len(opening):  # the last one is open where the content ends
        if is_all or len(characters) - opening[first[-1]] > _MAX_QUOTED_BYTES:
            return False
        first, last = first[:-1], last[:-1]
    return not len(first) or int((closing[last] - opening[first]).max()) <= _MAX_QUOTED_BYTES


def _quoted_cells(
    content: bytes, quotes: list[int], line_ends: NDArray[np.intp], separator: str, *, is_all: bool
) -> tuple[list[int], list[int]]:
    """Where quoted cells begin and end, alternately, and where the quotes are that do not close."""
    cells: list[int] = []
    stray: list[int] = []
    at, spoilt_to = 0, -1
    before_a_cell = _before_a_cell(separator)
    while at < len(quotes):
        start = quotes[at]
        at += 1
        if start <= spoilt_to or (start and content[start - 1] not in before_a_cell):
            continue
        close = at
        while close + 1 < len(quotes) and quotes[close + 1] == quotes[close] + 1:
            close += 2
        if close < len(quotes) and quotes[close] - start <= _MAX_QUOTED_BYTES:
            cells += [start, quotes[close]]
            at = close + 1
        elif close >= len(quotes) and not is_all and len(content) - start <= _MAX_QUOTED_BYTES:
            cells.append(start)  # it may close in what follows
            break
        else:
            stray.append(start)
            following = int(np.searchsorted(line_ends, start))
            spoilt_to = int(line_ends[following]) if following < len(line_ends) else len(content)
    return cells, stray
