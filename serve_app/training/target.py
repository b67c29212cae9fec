"""The column to predict: its classes, and the class of each row.

Owns which values can be classes and their order. Knows nothing about the other columns.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.scoring.cells import excerpt
from serve_app.training.tables import Table

__all__ = ["Target", "read_target"]

_MIN_ROWS_PER_CLASS = 5  # so that one of them is held back
_MAX_CLASSES = 100
_INTEGER = re.compile(r"[+-]?\d{1,15}", re.ASCII)


@dataclass(frozen=True)
class Target:
    """``classes`` in order, the positive one of two last; ``codes`` holds the position of each row's class, shape (rows,)."""

    classes: tuple[int, ...] | tuple[str, ...]
    codes: NDArray[np.intp]

    @property
    def is_binary(self) -> bool:
        """Whether there are two classes."""
        return len(self.classes) == 2

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes as strings."""
        return tuple(map(str, self.classes))

    @property
    def labels(self) -> NDArray[np.int64] | NDArray[np.str_]:
        """The class of each row, shape (rows,)."""
        labels: NDArray[np.int64] | NDArray[np.str_] = np.array(self.classes)[self.codes]
        return labels


def read_target(table: Table, name: str) -> Target:
    """The classes in a column: numbers in their order if all of them are whole numbers, otherwise strings sorted.

    Raises:
        TableError: there is no such column, a cell is empty, there are not 2 to 100 classes, or a class has fewer than 5 rows.
    """
    if name not in table.columns:
        raise table.error(f"there is no column {excerpt(name)}")
    cells = [cell.strip() for cell in table.columns[name]]
    if "" in cells:
        raise table.cell_error(cells.index(""), name, "the target is empty")
    rows_of = Counter(cells)
    if not 2 <= len(rows_of) <= _MAX_CLASSES:
        raise table.error(f"the target {excerpt(name)} has {len(rows_of)} different values; it must have 2 to {_MAX_CLASSES}")
    rarest = min(rows_of, key=rows_of.__getitem__)
    if rows_of[rarest] < _MIN_ROWS_PER_CLASS:
        reason = f"each class needs at least {_MIN_ROWS_PER_CLASS} rows"
        raise table.error(f"too few rows are {excerpt(rarest)}: {rows_of[rarest]}; {reason}")
    if all(_INTEGER.fullmatch(cell) for cell in rows_of) and len(set(map(int, rows_of))) == len(rows_of):
        numbers = sorted(map(int, rows_of))
        return Target(tuple(numbers), np.searchsorted(numbers, list(map(int, cells))))
    names = sorted(rows_of)
    position = {cell: index for index, cell in enumerate(names)}
    return Target(tuple(names), np.array([position[cell] for cell in cells]))
