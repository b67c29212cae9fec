"""Records of a file as the values that a model scores, read by the parser of requests.

Owns what becomes of bad rows: each is refused alone, with all its problems, even if it is not JSON. Knows no files.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from serve_app.errors import FieldProblem, MalformedJSONError, RequestError
from serve_app.offline.pieces import Numbered, Record
from serve_app.scoring.arrays import Array, concatenate
from serve_app.scoring.rows import RowChunk, RowParser

__all__ = ["ROWS_AT_ONCE", "Problem", "RowsRead", "batches", "read_rows"]

ROWS_AT_ONCE = 4096


class Problem(msgspec.Struct, frozen=True):
    """What is wrong with one field of a row; ``field`` is None if the row itself is not an object."""

    field: str | None
    code: str
    message: str


class RowsRead(NamedTuple):
    """The values of the good rows, shape (good rows, columns), and the problems of each bad one by its position."""

    values: Array
    problems: dict[int, list[Problem]]


def batches(records: Iterable[Numbered]) -> Iterator[list[Numbered]]:
    """The records in lists of 4,096 at most."""
    iterator = iter(records)
    while some := list(itertools.islice(iterator, ROWS_AT_ONCE)):
        yield some


def read_rows(parser: RowParser, records: Sequence[Record]) -> RowsRead:
    """Reads records; ``parser`` must accept 4,096 rows at once."""
    lines = [record if isinstance(record, bytes) else msgspec.json.encode(record) for record in records]
    try:
        chunks = list(parser.chunks(b"[" + b",".join(lines) + b"]"))
    except RequestError:
        chunks = []
    if sum(chunk.rows for chunk in chunks) != len(records):  # a line is not JSON, or more than one value: read them one by one
        chunks = [_read_one(parser, row, line) for row, line in enumerate(lines)]
    problems: dict[int, list[Problem]] = {}
    for chunk in chunks:
        for problem in chunk.problems:
            problems.setdefault(problem.row, []).append(Problem(problem.field, problem.code, problem.message))
    for row, record in enumerate(records):
        if isinstance(record, str):  # the reason why it is not a row says more than that a string is none
            problems[row][0] = msgspec.structs.replace(problems[row][0], message=record)
    return RowsRead(concatenate([chunk.values for chunk in chunks]), problems)


def _read_one(parser: RowParser, row: int, line: bytes) -> RowChunk:
    try:
        chunks = list(parser.chunks(b"[" + line + b"]"))
        if sum(chunk.rows for chunk in chunks) != 1:
            raise MalformedJSONError("a line must hold one value", 0)
    except RequestError as error:
        return RowChunk(np.empty((0, len(parser.columns))), 1, (FieldProblem(row, None, error.code, str(error)),), ())
    (chunk,) = chunks
    return chunk._replace(problems=[msgspec.structs.replace(problem, row=row) for problem in chunk.problems])
