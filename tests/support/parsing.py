"""A small table of columns, and rows of it read by a RowParser: what the tests of reading rows have in common."""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

from serve_app.errors import FieldProblem
from serve_app.scoring.rows import RowParser
from serve_app.scoring.schema import Column

__all__ = ["COLUMNS", "GOOD", "Parsed", "parse", "problem_of", "row"]

COLUMNS = (
    Column("a b", "numeric"),
    Column("class", "categorical", levels=("x", "y", "5")),
    Column("m", "money"),
)
GOOD: dict[str, Any] = {"a b": 1.5, "class": "y", "m": "$2.50"}


class Parsed(NamedTuple):
    """Values with None for NaN, problems, warnings and the count of all rows."""

    values: list[list[float | None]]
    problems: list[FieldProblem]
    warnings: list[FieldProblem]
    rows: int


def parse(body: bytes | str, *, columns: tuple[Column, ...] = COLUMNS, max_rows: int = 10_000, **limits: int) -> Parsed:
    """All rows of a body."""
    parser = RowParser(columns, max_magnitude=1e300, max_rows=max_rows, **limits)
    chunks = list(parser.chunks(body.encode() if isinstance(body, str) else body))
    return Parsed(
        [[None if math.isnan(cell) else cell for cell in row] for chunk in chunks for row in chunk.values.tolist()],
        [problem for chunk in chunks for problem in chunk.problems],
        [warning for chunk in chunks for warning in chunk.warnings],
        sum(chunk.rows for chunk in chunks),
    )


def row(**changes: Any) -> dict[str, Any]:
    """``GOOD`` with other cells: ``a``, ``c`` and ``m`` are the columns."""
    names = {"a": "a b", "c": "class", "m": "m"}
    return {**GOOD, **{names[key]: value for key, value in changes.items()}}


def problem_of(body: dict[str, Any] | list[Any] | str, **options: Any) -> tuple[str, str | None]:
    """Code and field of the only problem of a body."""
    (problem,) = parse(body if isinstance(body, str) else json.dumps(body), **options).problems
    return problem.code, problem.field
