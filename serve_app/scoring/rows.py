"""From the bytes of a request to checked rows: JSON in, a values array and the problems of each bad row out.

Owns the JSON side of a table: which fields a row must have, what may stand in them, what is wrong with those that are not
so. Nothing is inferred from the rows: columns, kinds and levels come from the schema, always. Knows no HTTP, no model.

Three properties carry the design:

- Only the columns that the model uses are decoded, into a msgspec type built from the schema; the rest is skipped over, but
  must still be JSON.
- A large array is decoded in pieces, so that whoever drives the iterator can let others work in between. A piece ends where
  ``}, {`` is found. Such a place might lie inside a text or a nested value, but then the piece up to it is no complete
  JSON: that each piece decodes *is* the proof that the cut was right, and where one does not, a larger piece is tried, at
  last all that is left.
- The fast path takes rows that are all fine. Where a row is not, its piece is read again row by row and field by field, to
  say all that is wrong with it.

A key that stands twice in an object counts with its last value.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec
import numpy as np

from serve_app.errors import FieldProblem, MalformedJSONError, NotRowsError, TooManyRowsError
from serve_app.scoring.arrays import Array
from serve_app.scoring.cell_readers import FAST_CELLS, RowProblem, column_reader, json_kind
from serve_app.scoring.cells import excerpt
from serve_app.scoring.nesting import MAX_DEPTH, STRUCTURE, is_deeper, too_deep_at
from serve_app.scoring.schema import Column

__all__ = ["RowChunk", "RowParser"]

_ROW_BOUNDARY = re.compile(rb"\}[ \t\r\n]*,[ \t\r\n]*(?=\{)")
_ESCAPED = re.compile(r'["\\\x00-\x1f]')
_OFFSET = re.compile(r"\(byte (\d+)\)")
_PIECE_BYTES = 256 * 1024  # about a millisecond of decoding: as long as a neighbour's request may have to wait
_THOROUGH_ROWS = 128  # the same of the row-by-row path
_LARGE_PIECE_BYTES = 32 * _PIECE_BYTES
_OBJECTS_PER_ROW = 4
_DETAILED_ROWS = 1000  # so many bad rows of a request have all their problems named, the others their first
_decode_raw = msgspec.json.Decoder(msgspec.Raw).decode
_decode_raw_rows = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class RowChunk(NamedTuple):
    """Some consecutive rows of a request.

    ``values`` has shape (good rows, columns); ``rows`` counts all rows, good and bad. Problems belong to the bad rows and
    warnings to good ones; both number rows within the request.
    """

    values: Array
    rows: int
    problems: Sequence[FieldProblem]
    warnings: Sequence[FieldProblem]


class RowParser:
    """Reads rows of the given columns.

    Args:
        columns: the columns that a row must have; their order is that of the values array.
        max_magnitude: a number beyond it counts as overflowing.
        max_rows: the most rows of one request.
        max_text_characters: the longest text that is looked at in one of the columns.
        max_nesting: how deep arrays and objects may stand in each other within a row, the row itself included.
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
        self._max_magnitude = max_magnitude
        self._max_rows = max_rows
        self._max_nesting = max_nesting
        # Field names are made up, because a column may be called anything; the JSON names are the columns' own. Those that
        # JSON has to escape cannot be fields: such columns take the thorough path.
        is_renamable = all(_ESCAPED.search(column.name) is None for column in self.columns)
        attributes = [f"c{index}" for index in range(len(self.columns))]
        row_type = msgspec.defstruct(
            "Row",
            [
                (attribute, FAST_CELLS.get(column.kind, float | str | None))
                for attribute, column in zip(attributes, self.columns, strict=True)
            ],
            rename=dict(zip(attributes, (column.name for column in self.columns), strict=True)) if is_renamable else None,
            gc=False,
        )
        self._readers = [column_reader(column, max_text_characters) for column in self.columns]
        self._getters = [attrgetter(attribute) for attribute in attributes]
        decode = msgspec.json.Decoder(list[row_type] | row_type).decode  # type: ignore[valid-type]
        self._decode: Callable[[str], Any] = decode if is_renamable else _decode_nothing

    def chunks(self, body: bytes | bytearray) -> Iterator[RowChunk]:
        """The rows of a request's body, in order, in one or more chunks of at most a millisecond or so of work.

        Raises:
            MalformedJSONError: the body is no JSON (RFC 8259: UTF-8, no NaN, no Infinity, nothing behind the value).
            NotRowsError: it is JSON, but neither an array nor an object.
            TooManyRowsError: more rows than ``max_rows``.
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
        row, bad_rows, start, size = 0, 0, 0, _PIECE_BYTES
        while start < len(body) or start == 0:
            boundary = _ROW_BOUNDARY.search(body, start + size) if len(body) - start > 2 * size else None
            end = boundary.start() + 1 if boundary else len(body)
            prefix, suffix = "[" if start else "", "]" if boundary else ""
            try:
                chunks = self._read(_text(body, start, end, prefix, suffix), row, bad_rows)
            except MalformedJSONError as error:
                if boundary is None or isinstance(error, _TooDeepError):
                    raise MalformedJSONError(error.reason, error.offset + start - len(prefix)) from None
                size *= 2  # cut in the wrong place, or malformed indeed: a larger piece tells
                continue
            for chunk in chunks:
                yield chunk
                row += chunk.rows
                bad_rows += chunk.rows - len(chunk.values)
            start, size = boundary.end() if boundary else len(body) + 1, _PIECE_BYTES

    def _read(self, text: str, first_row: int, bad_rows: int) -> Iterator[RowChunk]:
        """The rows of a JSON text: the fast way where all are fine, else the thorough way, in smaller chunks."""
        is_safe = len(text) <= _LARGE_PIECE_BYTES or text.count("{") <= _OBJECTS_PER_ROW * self._max_rows
        try:
            if is_safe:  # not a decoded object for each of a hundred million tiny rows
                decoded = self._decode(text)
                rows = decoded if type(decoded) is list else [decoded]
                self._check_nesting(text, len(rows) if rows is decoded else 0)
                return iter((self._columnar(rows, first_row),))
        except (msgspec.ValidationError, RowProblem):
            pass
        except (msgspec.DecodeError, RecursionError) as error:
            raise _malformed(error, text) from error
        raws = _raw_rows(text)
        self._check_nesting(text, 0)
        return self._row_by_row(raws, first_row, bad_rows)

    def _check_nesting(self, text: str, rows: int) -> None:
        """Looks at the depth of a JSON text where it has more brackets than so many flat rows and one deep value.

        Raises:
            _TooDeepError: something in it is deeper than the limit.
        """
        most = rows + self._max_nesting
        if _count(text, "{", most) + _count(text, "[", most) <= most:
            return
        max_depth = self._max_nesting + (text.lstrip()[:1] == "[")
        if is_deeper(text, max_depth):
            raise _TooDeepError(f"nested more than {self._max_nesting} deep", too_deep_at(text, max_depth))

    def _columnar(self, decoded: list[Any], first_row: int) -> RowChunk:
        """The fast path: column by column.

        Raises:
            RowProblem: some row is not fine.
        """
        values = np.empty((len(decoded), len(self.columns)))
        warnings: list[FieldProblem] = []
        for index, (getter, reader) in enumerate(zip(self._getters, self._readers, strict=True)):
            values[:, index] = reader.read_all(list(map(getter, decoded)), first_row, warnings)
        if (np.abs(values) > self._max_magnitude).any():
            raise RowProblem("not_a_number", "too large")
        return RowChunk(values, len(decoded), (), warnings)

    def _row_by_row(self, raws: Iterator[msgspec.Raw], first_row: int, bad_rows: int) -> Iterator[RowChunk]:
        """The thorough path: each row by itself, with what is wrong with it.

        Of a flood of bad rows each has its first problem named only: a body of a few bytes per row must not become a message
        per row and column.
        """
        while some := list(islice(raws, _THOROUGH_ROWS)):
            good: list[list[float]] = []
            problems: list[FieldProblem] = []
            warnings: list[FieldProblem] = []
            for row, raw in enumerate(some, first_row):
                found: list[FieldProblem] = []
                noted: list[FieldProblem] = []
                values = self._read_row(raw, row, found, noted, max_problems=1 if bad_rows >= _DETAILED_ROWS else None)
                if found:
                    problems += found
                    bad_rows += 1
                else:
                    good.append(values)
                    warnings += noted
            array = np.array(good, dtype=np.float64).reshape(len(good), len(self.columns))
            yield RowChunk(array, len(some), problems, warnings)
            first_row += len(some)

    def _read_row(
        self,
        raw: msgspec.Raw,
        row: int,
        problems: list[FieldProblem],
        warnings: list[FieldProblem],
        *,
        max_problems: int | None,
    ) -> list[float]:
        try:
            fields = _decode_fields(raw)
        except msgspec.ValidationError:
            message = f"row {row} is {json_kind(raw)}, not an object"
            problems.append(FieldProblem(row, None, "not_an_object", message))
            return []
        values = []
        for column, reader in zip(self.columns, self._readers, strict=True):
            try:
                if column.name not in fields:
                    raise RowProblem("missing_field", "the field is missing")  # noqa: TRY301
                value = reader.read_one(fields[column.name], row, warnings)
                if abs(value) > self._max_magnitude:
                    raise RowProblem("not_a_number", "the number is too large")  # noqa: TRY301
                values.append(value)
            except RowProblem as problem:
                message = f"row {row}, field {excerpt(column.name)}: {problem.message}"
                problems.append(FieldProblem(row, column.name, problem.code, message))
                if len(problems) == max_problems:
                    break
        return values


class _TooDeepError(MalformedJSONError):
    """Nested too deeply, in a piece that was cut in the right place."""


def _text(body: bytes | bytearray, start: int, end: int, prefix: str, suffix: str) -> str:
    """Part of a body as text, completed by the brackets that it lacks."""
    try:
        return prefix + str(memoryview(body)[start:end], "utf-8") + suffix
    except UnicodeDecodeError as error:
        raise MalformedJSONError("invalid UTF-8", len(prefix) + error.start) from None


def _raw_rows(text: str) -> Iterator[msgspec.Raw]:
    """The rows of a JSON text, undecoded but known to be JSON.

    Raises:
        MalformedJSONError, NotRowsError: it is none, or holds no rows.
    """
    try:
        raw = _decode_raw(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _malformed(error, text) from error
    kind = json_kind(raw)
    if kind == "an object":
        return iter((raw,))
    if kind != "an array":
        raise NotRowsError(kind)
    return iter(_decode_raw_rows(raw)) if len(text) <= _LARGE_PIECE_BYTES else _elements(text)


def _elements(array: str) -> Iterator[msgspec.Raw]:
    """The elements of a JSON array one after the other, where all of them at once might fill the memory."""
    depth, start = 0, 0
    for token in STRUCTURE.finditer(array):
        mark = token[0]
        if mark in {"[", "{"}:
            depth += 1
            if depth == 1:
                start = token.end()
        elif (mark == "," and depth == 1) or (mark == "]" and depth == 1):
            element = array[start : token.start()].strip()
            if element:
                yield msgspec.Raw(element)
            start = token.end()
        if mark in {"]", "}"}:
            depth -= 1


def _decode_nothing(_text: str) -> Any:
    """In the place of a decoder that cannot be made: every text goes the thorough way."""
    raise msgspec.ValidationError


def _malformed(error: Exception, text: str) -> MalformedJSONError:
    if isinstance(error, RecursionError):
        return MalformedJSONError("nested too deeply", too_deep_at(text, MAX_DEPTH))
    reason = str(error).removeprefix("JSON is malformed: ")
    found = _OFFSET.search(reason)
    if found is None:
        return MalformedJSONError("it ends too early", len(text.encode()))
    return MalformedJSONError(reason[: found.start()].strip(), int(found[1]))


def _count(text: str, mark: str, most: int) -> int:
    """How often a mark stands in a text, or more than ``most``. find() skips what count() looks at one by one."""
    count, at = 0, text.find(mark)
    while at >= 0 and count <= most:
        count += 1
        at = text.find(mark, at + 1)
    return count
