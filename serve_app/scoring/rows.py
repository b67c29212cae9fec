"""From the bytes of a request to checked rows: JSON in, a values array and the problems of the bad rows out.

Owns the way through a body: where it is cut into pieces, and which of the two ways of reading a piece is tried. Columns, kinds
and levels come from the schema; nothing is inferred from the rows. Knows no HTTP and no model.

Three properties carry the design:

- Only the columns that the model uses are decoded; the rest must be JSON, but is skipped.
- A large array is decoded in pieces, so that the caller can let others work between them. A piece ends where ``}, {`` is found.
  That place might lie within a string or a nested value, but then the piece is not complete JSON. So a piece that decodes
  proves that the cut was right; for one that does not, a larger piece is tried, in the end the whole rest of the body.
- Rows without a problem are read the fast way. If a piece has a problem, it is read again the thorough way.

If a key occurs twice in an object, its last value counts.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from serve_app.errors import MalformedJSONError, TooManyRowsError
from serve_app.scoring.cell_readers import CellError, cell_reader
from serve_app.scoring.fast_rows import FastRows
from serve_app.scoring.json_syntax import malformed
from serve_app.scoring.nesting import MAX_DEPTH, TooDeepError, check_nesting
from serve_app.scoring.row_chunk import RowChunk
from serve_app.scoring.schema import Column
from serve_app.scoring.thorough_rows import ThoroughRows, raw_rows

__all__ = ["RowChunk", "RowParser"]

_ROW_BOUNDARY = re.compile(rb"\}[ \t\r\n]*,[ \t\r\n]*(?=\{)")

_PIECE_BYTES = 256 * 1024  # about a millisecond of decoding: as long as another request may have to wait
_LARGE_PIECE_BYTES = 32 * _PIECE_BYTES
_OBJECTS_PER_ROW = 4


class RowParser:
    """Reads rows of the given columns.

    Args:
        columns: the columns that a row must have, in the order of the values array.
        max_magnitude: the largest absolute number that can be scored.
        max_rows: the most rows of one request.
        max_text_characters: the length of the longest string in one of the columns.
        max_nesting: how deeply a row may be nested, the row itself included.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        *,
        max_magnitude: float,
        max_rows: int,
        max_text_characters: int = sys.maxsize,
        max_nesting: int = MAX_DEPTH,
    ) -> None:
        self.columns = tuple(columns)
        self._max_rows = max_rows
        self._max_nesting = max_nesting
        readers = [cell_reader(column, max_text_characters) for column in self.columns]
        self._fast = FastRows(self.columns, readers, max_magnitude)
        self._thorough = ThoroughRows(self.columns, readers, max_magnitude)

    def chunks(self, body: bytes | bytearray) -> Iterator[RowChunk]:
        """The rows of a request's body, in order, in one or more chunks of about a millisecond of work each.

        Raises:
            MalformedJSONError: the body is not JSON (RFC 8259: UTF-8, no NaN, no Infinity, nothing after the value).
            NotRowsError: it is JSON, but neither an array nor an object.
            TooManyRowsError: it has more rows than ``max_rows``.
        """
        rows, chunk = 0, None
        for chunk in self._chunks(body):
            rows += chunk.rows
            if rows > self._max_rows:
                raise TooManyRowsError(self._max_rows)
            yield chunk
        if chunk is None:
            yield RowChunk(np.empty((0, len(self.columns))), 0, (), ())

    def _chunks(self, body: bytes | bytearray) -> Iterator[RowChunk]:
        """The chunks of each piece of the body; a piece is made an array of rows by the brackets that it lacks."""
        row, bad_rows, start, size = 0, 0, 0, _PIECE_BYTES
        while start < len(body) or start == 0:
            boundary = _ROW_BOUNDARY.search(body, start + size) if len(body) - start > 2 * size else None
            end = boundary.start() + 1 if boundary else len(body)
            prefix, suffix = "[" if start else "", "]" if boundary else ""
            try:
                chunks = self._read(_decode_utf8(body, start, end, prefix, suffix), row, bad_rows)
            except MalformedJSONError as error:
                if boundary is None or isinstance(error, TooDeepError):
                    raise MalformedJSONError(error.reason, error.offset + start - len(prefix)) from None
                size *= 2  # cut in the wrong place, or really malformed: a larger piece will tell
                continue
            for chunk in chunks:
                yield chunk
                row += chunk.rows
                bad_rows += chunk.rows - len(chunk.values)
            start, size = boundary.end() if boundary else len(body) + 1, _PIECE_BYTES

    def _read(self, text: str, first_row: int, bad_rows: int) -> Iterator[RowChunk]:
        """The rows of a JSON document, read the fast way if they have no problem, else the thorough way.

        A large document with very many objects is not decoded as a whole: they might be a hundred million tiny rows.
        """
        is_large = len(text) > _LARGE_PIECE_BYTES
        if not is_large or text.count("{") <= _OBJECTS_PER_ROW * self._max_rows:
            try:
                decoded = self._fast.decode(text)
                rows, count = (decoded, len(decoded)) if type(decoded) is list else ([decoded], 0)
                check_nesting(text, self._max_nesting, count)
                return iter((self._fast.read(rows, first_row),))
            except (msgspec.ValidationError, CellError):
                pass
            except (msgspec.DecodeError, RecursionError) as error:
                raise malformed(error, text) from error
        raws = raw_rows(text, one_by_one=is_large)
        check_nesting(text, self._max_nesting)
        return self._thorough.read(raws, first_row, bad_rows)


def _decode_utf8(body: bytes | bytearray, start: int, end: int, prefix: str, suffix: str) -> str:
    """Part of a body as a string, with a prefix and a suffix."""
    try:
        return prefix + str(memoryview(body)[start:end], "utf-8") + suffix
    except UnicodeDecodeError as error:
        raise MalformedJSONError("invalid UTF-8", len(prefix) + error.start) from None
