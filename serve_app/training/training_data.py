"""What models are fitted to: a table read, split and turned into numbers.

Owns the order of those steps, and the user's choices about them. Fits and measures nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve_app.scoring.arrays import Array
from serve_app.scoring.schema import Column, Schema, UnknownPolicy
from serve_app.training.column_kinds import Correction, Inferred, infer_schema
from serve_app.training.csv_tables import CsvOptions
from serve_app.training.folds import Split, split_rows
from serve_app.training.nulls import NULL_TOKENS, TARGET_NULL_TOKENS, blank_nulls
from serve_app.training.tables import Table, read_column, read_table
from serve_app.training.target import Target, read_target

__all__ = ["TableChoices", "TrainingData", "read_training_data"]


@dataclass(frozen=True)
class TableChoices:
    """What a user says about a table.

    ``target`` is the column to predict, ``positive`` its positive class (None: the last in order), ``unknown`` what a category
    does that the training rows do not have. ``corrections`` are by column. ``null_tokens`` mean a missing value, besides those
    of nulls.py.
    """

    target: str
    positive: str | None = None
    unknown: UnknownPolicy = "as_null"
    corrections: Mapping[str, Correction] = field(default_factory=dict)
    null_tokens: Sequence[str] = ()
    csv: CsvOptions = CsvOptions()  # noqa: RUF009 - frozen


@dataclass(frozen=True)
class TrainingData:
    """A table that is ready to fit models to; ``values`` has shape (rows, columns of the schema)."""

    table: Table
    target: Target
    split: Split
    inferred: Inferred
    values: Array

    @property
    def schema(self) -> Schema:
        """The columns that a model may use."""
        return self.inferred.schema

    @property
    def fitted_codes(self) -> NDArray[np.intp]:
        """The position of the class of each row to fit, shape (rows to fit,)."""
        return self.target.codes[self.split.fitted]

    @property
    def fitted_shares(self) -> Array:
        """The share of each class among the rows to fit, shape (classes,)."""
        counts = np.bincount(self.fitted_codes, minlength=len(self.target.classes))
        return np.asarray(counts / counts.sum())

    @property
    def rows_without_target(self) -> int:
        """How many rows are left out because their target is missing."""
        return len(self.target.codes) - len(self.target.known)

    def fitted_values(self, columns: Sequence[Column]) -> Array:
        """The rows to fit, of some of the schema's columns: shape (rows to fit, columns)."""
        return self.values[self.split.fitted][:, [self.schema.columns.index(column) for column in columns]]


def read_training_data(path: Path, choices: TableChoices, seed: int) -> TrainingData:
    """Reads the table at ``path``.

    Raises:
        TableError: the table cannot be read or trained on; names the row and column.
        SettingsError: one of the choices does not fit the table.
    """
    table = read_table(path, choices.csv)
    tokens = (*NULL_TOKENS, *choices.null_tokens)
    tokens_of = dict.fromkeys(table.columns, tokens)
    tokens_of[choices.target] = (*TARGET_NULL_TOKENS, *choices.null_tokens)
    for name, correction in choices.corrections.items():
        if correction.null_tokens is not None:
            tokens_of[name] = correction.null_tokens
    table = blank_nulls(table, tokens_of)
    target = read_target(table, choices.target, choices.positive)
    split = split_rows(target.codes, seed)
    inferred = infer_schema(
        table,
        choices.target,
        split.fitted.tolist(),
        unknown=choices.unknown,
        corrections=choices.corrections,
        null_tokens=tokens,
    )
    values = np.column_stack([read_column(table, column) for column in inferred.schema.columns])
    return TrainingData(table, target, split, inferred, values)
