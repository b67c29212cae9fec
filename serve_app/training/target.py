"""The column to predict: its classes, and the class of each row.

Owns which values can be classes, their names and their order. The names are the same whatever the file's format is: true and
false in any case are booleans, numbers are numbers (``0.0`` is 0), anything else is a string. Knows nothing about the other
columns.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import SettingsError
from serve_app.scoring.cells import excerpt
from serve_app.training.tables import Table, is_null

__all__ = ["Class", "Target", "read_target"]

Class = bool | int | float | str
_MIN_ROWS_PER_CLASS = 5  # so that one of them is held back
_MAX_CLASSES = 100
_NUMBER = re.compile(r"[+-]?(\d{1,15}(\.\d{0,15})?|\.\d{1,15})", re.ASCII)
_BOOLEANS = {"false": False, "true": True}


@dataclass(frozen=True)
class Target:
    """``classes`` in order, the positive one of two last.

    ``codes`` holds the position of each row's class, shape (rows,), or -1 where the target is missing.
    """

    classes: tuple[Class, ...]
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
    def known(self) -> NDArray[np.intp]:
        """The numbers of the rows that have a class."""
        return np.flatnonzero(self.codes >= 0)


def read_target(table: Table, name: str, positive: str | None = None) -> Target:
    """The classes in a column: false before true, numbers in their order, strings sorted; ``positive`` goes last.

    Raises:
        TableError: there is no such column, there are not 2 to 100 classes, or a class has fewer than 5 rows.
        SettingsError: ``positive`` is not one of two classes.
    """
    if name in table.unreadable:
        raise table.error(table.unreadable[name])
    if name not in table.columns:
        raise table.error(f"there is no column {excerpt(name)}")
    rows_of = Counter(cell for cell in table.columns[name] if not is_null(cell))
    class_of = _classes_of(sorted({cell.strip() for cell in rows_of}))
    rows_per_class: Counter[Class] = Counter()
    for cell, rows in rows_of.items():
        rows_per_class[class_of[cell.strip()]] += rows
    if not 2 <= len(rows_per_class) <= _MAX_CLASSES:
        reason = f"{len(rows_per_class)} different values; it must have 2 to {_MAX_CLASSES}"
        raise table.error(f"the target {excerpt(name)} has {reason}")
    rarest = min(rows_per_class, key=rows_per_class.__getitem__)
    if rows_per_class[rarest] < _MIN_ROWS_PER_CLASS:
        reason = f"each class needs at least {_MIN_ROWS_PER_CLASS} rows"
        raise table.error(f"too few rows are {excerpt(str(rarest))}: {rows_per_class[rarest]}; {reason}")
    classes = sorted(rows_per_class)
    if positive is not None:
        classes = _positive_last(classes, positive)
    position = {cell: classes.index(class_of[cell.strip()]) for cell in rows_of}
    return Target(tuple(classes), np.array([position.get(cell, -1) for cell in table.columns[name]], dtype=np.intp))


def _classes_of(cells: Sequence[str]) -> dict[str, Class]:
    """The class of each different cell."""
    for read in (_read_boolean, _read_number):
        classes = [read(cell) for cell in cells]
        # Two spellings of one boolean are the same class; two of a number (01 and 1) may be two codes.
        if None not in classes and (read is _read_boolean or len(set(classes)) == len(cells)):
            return {cell: one for cell, one in zip(cells, classes, strict=True) if one is not None}
    return {cell: cell for cell in cells}


def _read_boolean(cell: str) -> bool | None:
    return _BOOLEANS.get(cell.lower())


def _read_number(cell: str) -> int | float | None:
    if _NUMBER.fullmatch(cell) is None:
        return None
    number = float(cell)
    return int(number) if number.is_integer() else number


def _positive_last(classes: Sequence[Class], positive: str) -> list[Class]:
    readers: tuple[Callable[[str], Class | None], ...] = (_read_boolean, _read_number, str)
    for wanted in (read(positive.strip()) for read in readers):
        found = [one for one in classes if one == wanted and isinstance(one, bool) == isinstance(wanted, bool)]
        if found and len(classes) == 2:
            return [one for one in classes if one is not found[0]] + found
    names = " and ".join(excerpt(str(one)) for one in classes[:2])
    what = f"the classes are {names}" if len(classes) == 2 else f"the target has {len(classes)} classes, not two"
    raise SettingsError(f"the positive class cannot be {excerpt(positive)}: {what}")
