"""What a server wants to be asked, and how its answer is read: the same rows and columns for each, in its own JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from benchmarks.rows import Rows
from serve_app.scoring.schema import Column, Schema

__all__ = ["BentoRows", "Format", "InferenceV2", "RowObjects"]


class Format(Protocol):
    """The body of a request and the reading of its answer, at one path."""

    path: str

    def encode(self, rows: Rows) -> bytes:
        """The body that asks for these rows."""
        ...

    def read_probabilities(self, answer: bytes) -> list[float]:
        """The probability of the positive class of each row, in order.

        Raises:
            ValueError: the answer is something else.
        """
        ...


class _Answer(msgspec.Struct):
    probability_positiveclass: float


class RowObjects:
    """The service's own: an array of row objects in, an array of answers out."""

    path = "/predict"

    def encode(self, rows: Rows) -> bytes:
        """``[{…}, {…}]``."""
        return b"[" + b",".join(rows) + b"]"

    def read_probabilities(self, answer: bytes) -> list[float]:
        """One object per row."""
        return [row.probability_positiveclass for row in msgspec.json.decode(answer, type=list[_Answer])]


class BentoRows(RowObjects):
    """BentoML's: the same rows as the argument ``rows`` of a method."""

    def encode(self, rows: Rows) -> bytes:
        """``{"rows": [{…}, {…}]}``."""
        return b'{"rows":' + super().encode(rows) + b"}"


class InferenceV2:
    """The V2 inference protocol of MLServer and others: a tensor per column.

    Args:
        schema: of the rows. Numbers travel as FP64; money, percent and categories as the texts that they are.
        model: the name that the server knows the model by.
    """

    def __init__(self, schema: Schema, model: str) -> None:
        self.path = f"/v2/models/{model}/infer"
        self._columns = schema.columns

    def encode(self, rows: Rows) -> bytes:
        """``{"inputs": [{"name": "x0", "datatype": "FP64", "shape": [n, 1], "data": […]}, …]}``."""
        decoded = [msgspec.json.decode(row) for row in rows]
        return msgspec.json.encode({"inputs": [_tensor(column, decoded) for column in self._columns]})

    def read_probabilities(self, answer: bytes) -> list[float]:
        """The tensor called ``probability_positiveclass``."""
        outputs = msgspec.json.decode(answer)["outputs"]
        for output in outputs:
            if output["name"] == "probability_positiveclass":
                return list(map(float, output["data"]))
        raise ValueError("the answer has no tensor probability_positiveclass")


def _tensor(column: Column, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    cells = [row[column.name] for row in rows]
    if column.kind == "numeric":
        data = [None if cell is None or cell == "" else float(cell) for cell in cells]
        return {"name": column.name, "datatype": "FP64", "shape": [len(rows), 1], "data": data}
    texts = ["" if cell is None else str(cell) for cell in cells]
    return {"name": column.name, "datatype": "BYTES", "shape": [len(rows), 1], "data": texts}
