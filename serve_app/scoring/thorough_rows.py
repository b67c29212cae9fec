"""The thorough way to read rows: one by one and field by field, to name everything that is wrong with them.

Owns what is said of a bad row. It is slower than ``fast_rows``, and used only where that has given up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import msgspec
import numpy as np

from serve_app.errors import FieldProblem, NotRowsError
from serve_app.scoring.cell_readers import CellError, CellReader
from serve_app.scoring.cells import excerpt
from serve_app.scoring.json_syntax import elements, json_kind, malformed
from serve_app.scoring.row_chunk import RowChunk
from serve_app.scoring.schema import Column

__all__ = ["ThoroughRows", "raw_rows"]

_CHUNK_ROWS = 128  # about a millisecond of work, like a piece on the fast path
_DETAILED_ROWS = 1000  # of so many bad rows of a request all problems are named, of the others the first

_decode_raw = msgspec.json.Decoder(msgspec.Raw).decode
_decode_raw_rows = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class ThoroughRows:
    """Reads rows that may have problems.

    Args:
        columns: in the order of the values array.
        readers: of the columns' cells.
        max_magnitude: the largest absolute number that can be scored.
    """

    def __init__(self, columns: Sequence[Column], readers: Sequence[CellReader], max_magnitude: float) -> None:
        self._columns = list(zip(columns, readers, strict=True))
        self._max_magnitude = max_magnitude

    def read(self, raws: Iterator[msgspec.Raw], first_row: int, bad_rows: int) -> Iterator[RowChunk]:
        """The rows in small chunks.

        Args:
            raws: the rows, known to be JSON.
            first_row: the number of the first of them within the request.
            bad_rows: how many rows of the request were bad before these. If there are very many, only the first problem of a
                row is named: a body with few bytes per row must not become a message per row and column.
        """
        while some := list(islice(raws, _CHUNK_ROWS)):
            good: list[list[float]] = []
            problems: list[FieldProblem] = []
            warnings: list[FieldProblem] = []
            for row, raw in enumerate(some, first_row):
                noted: list[FieldProblem] = []
                values, found = self._read_row(raw, row, noted, max_problems=1 if bad_rows >= _DETAILED_ROWS else None)
                if found:
                    problems += found
                    bad_rows += 1
                else:
                    good.append(values)
                    warnings += noted
            array = np.array(good, dtype=np.float64).reshape(len(good), len(self._columns))
            yield RowChunk(array, len(some), problems, warnings)
            first_row += len(some)

    def _read_row(
        self, raw: msgspec.Raw, row: int, warnings: list[FieldProblem], *, max_problems: int | None
    ) -> tuple[list[float], list[FieldProblem]]:
        """The values of a row and its problems; the values are complete only if there are no problems."""
        try:
            fields = _decode_fields(raw)
        except msgspec.ValidationError:
            return [], [FieldProblem(row, None, "not_an_object", f"row {row} is {json_kind(raw)}, not an object")]
        values: list[float] = []
        problems: list[FieldProblem] = []
        for column, reader in self._columns:
            try:
                values.append(self._read_cell(column, reader, fields, row, warnings))
            except CellError as error:
                message = f"row {row}, field {excerpt(column.name)}: {error.message}"
                problems.append(FieldProblem(row, column.name, error.code, message))
                if len(problems) == max_problems:
                    break
        return values, problems

    def _read_cell(
        self,
        column: Column,
        reader: CellReader,
        fields: Mapping[str, msgspec.Raw],
        row: int,
        warnings: list[FieldProblem],
    ) -> float:
        raw = fields.get(column.name)
        if raw is None:
            raise CellError("missing_field", "the field is missing")
        value = reader.read_one(raw, row, warnings)
        if abs(value) > self._max_magnitude:
            raise CellError("not_a_number", "the number is too large")
        return value


def raw_rows(text: str, *, one_by_one: bool) -> Iterator[msgspec.Raw]:
    """The rows of a JSON document, undecoded but known to be JSON; ``one_by_one`` saves memory and costs time.

    Raises:
        MalformedJSONError: it is not JSON.
        NotRowsError: it is neither an object nor an array.
    """
    try:
        raw = _decode_raw(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise malformed(error, text) from error
    kind = json_kind(raw)
    if kind == "an object":
        return iter((raw,))
    if kind != "an array":
        raise NotRowsError(kind)
    return elements(text) if one_by_one else iter(_decode_raw_rows(raw))
