"""Columns of a table: their kinds, levels and policies, and the features that a model makes of them.

Owns what a column *is*. How its cells are read is the business of ``cell_readers``, how they become a matrix that of
``features``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import MappingProxyType
from typing import Literal

import msgspec

from serve_app.scoring.cells import read_boolean, read_date, read_money, read_number, read_percent

__all__ = ["MISSING", "READERS", "Column", "Feature", "Kind", "NullPolicy", "Schema", "UnknownPolicy", "selected_columns"]

MISSING = ""
"""The level of a feature that is 1.0 where its column is missing; no category is called so."""
Kind = Literal["numeric", "money", "percent", "boolean", "date", "categorical"]
NullPolicy = Literal["impute", "reject"]
UnknownPolicy = Literal["as_null", "reject"]

READERS: MappingProxyType[str, Callable[[str], float]] = MappingProxyType(
    {"numeric": read_number, "money": read_money, "percent": read_percent, "boolean": read_boolean, "date": read_date}
)
"""How the string in a cell becomes a number, by kind; categorical columns have no reader."""


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One raw column.

    ``levels`` are the known values of a categorical column; the first is the baseline, which has no feature of its own.
    ``null`` says whether a missing value is scored as in training or refused. ``unknown`` says whether a category that is not a
    level counts as missing or is refused. ``null_tokens`` are strings that mean a missing value, as an empty one does, such as
    ``NA``.
    """

    name: str
    kind: Kind
    levels: tuple[str, ...] = ()
    null: NullPolicy = "impute"
    unknown: UnknownPolicy = "as_null"
    null_tokens: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.kind == "categorical") != bool(self.levels):
            raise ValueError(f"column {self.name}: a categorical column needs levels, and no other column may have them")
        if len(set(self.levels)) != len(self.levels):
            raise ValueError(f"column {self.name}: a level occurs twice")
        if MISSING in self.levels or not set(self.levels).isdisjoint(self.null_tokens):
            raise ValueError(f"column {self.name}: a level is also a missing value")

    @property
    def is_categorical(self) -> bool:
        """Whether a cell holds one of a set of levels instead of a number."""
        return self.kind == "categorical"


class Feature(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One column of the model's matrix: a standardised number, or 1.0 where ``column`` equals ``level``.

    The level ``""`` (``MISSING``) makes a missing value, or an unknown category, a level of its own; it may be one of a number.
    """

    column: str
    level: str | None = None

    @property
    def name(self) -> str:
        """``x91``, ``x5_saturday`` or ``x5 (missing)``: the name under which the model was fitted on it."""
        if self.level is None:
            return self.column
        return f"{self.column}_{self.level}" if self.level != MISSING else f"{self.column} (missing)"


class Schema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The columns of a table, in order."""

    columns: tuple[Column, ...]

    def __post_init__(self) -> None:
        if len({column.name for column in self.columns}) != len(self.columns):
            raise ValueError("a column name occurs twice in the schema")

    @property
    def numeric(self) -> tuple[Column, ...]:
        """Columns whose cells become one number each (numeric, money, percent, boolean, date)."""
        return tuple(column for column in self.columns if not column.is_categorical)

    @property
    def categorical(self) -> tuple[Column, ...]:
        """Columns whose cells hold one of a set of levels."""
        return tuple(column for column in self.columns if column.is_categorical)

    def column(self, name: str) -> Column:
        """The column called ``name``.

        Raises:
            KeyError: there is no such column.
        """
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)

    def all_features(self) -> tuple[Feature, ...]:
        """All features of the table: first its numbers, then the levels of its categories without the baselines."""
        numbers = [Feature(column.name) for column in self.numeric]
        levels = [Feature(column.name, level) for column in self.categorical for level in column.levels[1:]]
        return (*numbers, *levels)


def selected_columns(schema: Schema, features: Iterable[Feature]) -> tuple[Column, ...]:
    """The raw columns that ``features`` use, each once, in the order of their first feature."""
    names = dict.fromkeys(feature.column for feature in features)
    return tuple(schema.column(name) for name in names)
