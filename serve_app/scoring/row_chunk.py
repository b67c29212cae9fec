"""What reading some rows of a request gives: their values, and what is wrong with them.

Owns the shape that both ways of reading rows (``fast_rows``, ``thorough_rows``) return.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from serve_app.errors import FieldProblem
from serve_app.scoring.arrays import Array

__all__ = ["RowChunk"]


class RowChunk(NamedTuple):
    """Consecutive rows of a request.

    ``values`` has shape (good rows, columns); ``rows`` counts all rows, good and bad. ``problems`` belong to the bad rows and
    ``warnings`` to the good ones; both number the rows within the request, from 0.
    """

    values: Array
    rows: int
    problems: Sequence[FieldProblem]
    warnings: Sequence[FieldProblem]
