"""The rows that every server gets, and the probabilities that every server must answer with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.errors import BenchmarkError
from serve_app.components.compiled import Components

__all__ = ["Dataset", "Rows", "read_dataset"]

Rows = Sequence[bytes]
"""The JSON of one row object each, exactly as it stands in the file."""


@dataclass(frozen=True)
class Dataset:
    """Rows with the probability of the positive class of each, as scored in this process."""

    rows: Rows
    expected: NDArray[np.float64]


def read_dataset(path: Path, count: int, components: Components) -> Dataset:
    """``count`` rows of a file that holds a JSON array of row objects, from its beginning again when it has fewer.

    Raises:
        BenchmarkError: there is no such file, nothing in it, or a row that the service would refuse.
    """
    rows = _read_rows(path, count)
    return Dataset(rows, _score(components, rows))


def _read_rows(path: Path, count: int) -> Rows:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise BenchmarkError(f"{path} is missing: run `python -m serve_app generate` first") from None
    try:
        raws = msgspec.json.decode(content, type=list[msgspec.Raw])
    except msgspec.DecodeError as error:
        raise BenchmarkError(f"{path} is no JSON array of rows: {error}") from error
    if not raws:
        raise BenchmarkError(f"{path} holds no rows")
    # One body is one line: that is how the load generator's script tells them apart. In JSON a newline is white space.
    rows = [bytes(raw).replace(b"\n", b" ") for raw in islice(raws, count)]
    return list(islice(cycle(rows), count))


def _score(components: Components, rows: Rows) -> NDArray[np.float64]:
    parser = components.parser(max_rows=len(rows))
    chunks = list(parser.chunks(b"[" + b",".join(rows) + b"]"))
    problems = [problem for chunk in chunks for problem in chunk.problems]
    if problems:
        raise BenchmarkError(f"the rows are to be scored by every server, but {problems[0].message}")
    values = np.concatenate([chunk.values for chunk in chunks])
    probabilities: NDArray[np.float64] = components.scorer.score(components.encoder.encode(values))[:, 1]
    return probabilities
