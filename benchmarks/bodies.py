"""Request bodies in the format of each server, and the probabilities in its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from serve_app.scoring.schema import Column, Schema
from stress.dataset import Dataset

__all__ = ["BentoRows", "Bodies", "Format", "InferenceV2", "RowObjects", "Rows"]

_ROWS_IN_TURN = 2_000  # different rows that the load generator sends before it starts again
_BODIES_IN_TURN = 256

Rows = Sequence[bytes]
"""The JSON of one row object each."""


class Format(Protocol):
    """How to ask one server, at one path, and how to read its answer."""

    path: str

    def encode(self, rows: Rows) -> bytes:
        """The body of a request for these rows."""
        ...

    def read_probabilities(self, answer: bytes) -> list[float]:
        """The probability of the positive class of each row, in order.

        Raises:
            ValueError: the answer has another form.
        """
        ...


class _Answer(msgspec.Struct):
    probability_positiveclass: float


class RowObjects:
    """The service's own format: an array of row objects, answered by an array of answers."""

    path = "/predict"

    def encode(self, rows: Rows) -> bytes:
        """``[{…}, {…}]``."""
        return b"[" + b",".join(rows) + b"]"

    def read_probabilities(self, answer: bytes) -> list[float]:
        """One object per row."""
        return [row.probability_positiveclass for row in msgspec.json.decode(answer, type=list[_Answer])]


class BentoRows(RowObjects):
    """BentoML's format: the same rows as the argument ``rows`` of a method."""

    def encode(self, rows: Rows) -> bytes:
        """``{"rows": [{…}, {…}]}``."""
        return b'{"rows":' + super().encode(rows) + b"}"


class _Tensor(msgspec.Struct):
    name: str
    data: list[object]
    datatype: str = ""
    shape: tuple[int, ...] = ()


class _Request(msgspec.Struct):
    inputs: list[_Tensor]


class _Response(msgspec.Struct):
    outputs: list[_Tensor]


class InferenceV2:
    """The V2 inference protocol of MLServer and others: a tensor per column.

    Args:
        schema: of the rows. Numbers are sent as FP64; money, percent and categories as the strings that they are.
        model: the server's name of the model.
    """

    def __init__(self, schema: Schema, model: str) -> None:
        self.path = f"/v2/models/{model}/infer"
        self._columns = schema.columns

    def encode(self, rows: Rows) -> bytes:
        """``{"inputs": [{"name": "x0", "datatype": "FP64", "shape": [n, 1], "data": […]}, …]}``."""
        decoded = [msgspec.json.decode(row, type=dict[str, object]) for row in rows]
        return msgspec.json.encode(_Request([_tensor(column, decoded) for column in self._columns]))

    def read_probabilities(self, answer: bytes) -> list[float]:
        """The tensor called ``probability_positiveclass``."""
        for output in msgspec.json.decode(answer, type=_Response).outputs:
            if output.name == "probability_positiveclass":
                return msgspec.convert(output.data, list[float])
        raise ValueError("the answer has no tensor probability_positiveclass")


def _tensor(column: Column, rows: Sequence[Mapping[str, object]]) -> _Tensor:
    cells = [row[column.name] for row in rows]
    shape = (len(rows), 1)
    if column.kind == "numeric":
        return _Tensor(column.name, [None if cell in {None, ""} else float(str(cell)) for cell in cells], "FP64", shape)
    return _Tensor(column.name, ["" if cell is None else str(cell) for cell in cells], "BYTES", shape)


class Bodies:
    """The request bodies for one server, created once and used in every round.

    Args:
        dataset: the rows and their expected answers.
        wanted: the server's format.
        folder: receives the files of bodies.
    """

    def __init__(self, dataset: Dataset, wanted: Format, folder: Path) -> None:
        # The load generator reads one body per line. In JSON a newline between tokens is white space.
        self.rows = [row.replace(b"\n", b" ") for row in dataset.rows]
        self.expected: NDArray[np.float64] = np.array([answer.probabilities[-1] for answer in dataset.expected.answers])
        self.format = wanted
        self.folder = folder
        self._latest: tuple[int, bytes] = (0, b"")

    def one(self, rows: int) -> bytes:
        """One body of the first ``rows`` rows, repeated if there are fewer."""
        if self._latest[0] != rows:  # only the latest is kept: 100,000 rows need 170 MB
            self._latest = (rows, self.format.encode(list(islice(cycle(self.rows), rows))))
        return self._latest[1]

    def file(self, rows: int) -> Path:
        """A file of bodies of ``rows`` rows each, one per line."""
        path = self.folder / f"{rows}.ndjson"
        if not path.exists():
            starts = range(0, max(rows, min(_ROWS_IN_TURN, len(self.rows))), rows)[:_BODIES_IN_TURN]
            path.write_bytes(b"\n".join(self.format.encode(self.rows[start : start + rows]) for start in starts))
        return path
