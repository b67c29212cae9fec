"""Golden rows: rows with the probabilities that scikit-learn itself gave them, which prove a model whenever it is loaded.

Owns which rows are chosen, how they are scored when components are saved, and how far later scores may deviate. Refuses no
model itself: that is the business of ``loading``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from serve_app.components.manifest import Draft, GoldenRow, in_selected_order
from serve_app.scoring.arrays import Array
from serve_app.scoring.rows import RowParser
from serve_app.scoring.schema import MISSING, Column, Feature, Schema
from serve_app.scoring.sklearn_scorers import EstimatorScorer

__all__ = ["GOLDEN_ROWS", "GOLDEN_TOLERANCE", "choose_golden_rows", "golden_arrays", "predict_proba", "score_golden_rows"]

GOLDEN_ROWS = 20
"""How many golden rows a model has, if its table has as many."""

GOLDEN_TOLERANCE = 1e-12
"""How far the probability of a golden row may deviate."""


def choose_golden_rows(rows: Sequence[int], rows_with_null: Sequence[int]) -> list[int]:
    """The first of some rows, as many as ``GOLDEN_ROWS``; up to half of them have a null that the model must impute.

    Args:
        rows: numbers of rows that the model can score.
        rows_with_null: those of them with a null in a column that the model uses.
    """
    return list(dict.fromkeys([*rows_with_null[: GOLDEN_ROWS // 2], *rows]))[:GOLDEN_ROWS]


def golden_arrays(parser: RowParser, golden: Sequence[GoldenRow]) -> tuple[Array, Array]:
    """The golden rows as a values array of shape (rows, columns), and their probabilities of shape (rows, classes).

    Raises:
        ValueError: a row cannot be read.
    """
    chunks = list(parser.chunks(msgspec.json.encode([row.row for row in golden])))
    problems = [problem for chunk in chunks for problem in chunk.problems]
    if problems:
        raise ValueError(f"golden {problems[0].message}")
    values = np.concatenate([chunk.values for chunk in chunks])
    return values, np.array([row.probabilities for row in golden])


def score_golden_rows(draft: Draft) -> tuple[GoldenRow, ...]:
    """The golden rows of a draft, scored by scikit-learn itself: by neither the compiled encoder nor the compiled scorer."""
    import pandas as pd

    manifest = draft.manifest
    columns = in_selected_order(manifest)
    parser = RowParser(columns, max_magnitude=1e300, max_rows=len(draft.golden_rows))
    rows = [{column.name: row[column.name] for column in columns} for row in draft.golden_rows]
    values, _ = golden_arrays(parser, [GoldenRow(row, ()) for row in rows])
    raw = pd.DataFrame(values, columns=[column.name for column in columns])
    if "imputer" in manifest.estimators:
        numbers = pd.DataFrame({column.name: raw.get(column.name, np.nan) for column in manifest.schema.numeric}, raw.index)
        numbers = pd.DataFrame(
            draft.scaler.transform(pd.DataFrame(draft.imputer.transform(numbers), columns=numbers.columns)),
            columns=numbers.columns,
        )
    else:
        numbers = raw
    cells = {column.name: raw[column.name].to_numpy() for column in columns}
    scaled = {name: numbers[name].to_numpy() for name in numbers.columns}
    matrix = np.column_stack([_feature(manifest.schema, feature, cells, scaled) for feature in manifest.features])
    probabilities = predict_proba(draft.model, columns, matrix)
    return tuple(GoldenRow(row, tuple(map(float, scored))) for row, scored in zip(rows, probabilities, strict=True))


def _feature(schema: Schema, feature: Feature, cells: Mapping[str, Array], scaled: Mapping[str, Array]) -> Array:
    """One column of the matrix, without the encoder that is to be proven by it."""
    if feature.level is None:
        return scaled[feature.column]
    if feature.level == MISSING:
        return np.isnan(cells[feature.column]).astype(np.float64)
    code = schema.column(feature.column).levels.index(feature.level)
    return np.asarray(cells[feature.column] == code, dtype=np.float64)


def predict_proba(model: Any, columns: Sequence[Column], matrix: Array) -> Array:
    """Probabilities of shape (rows, classes) from the fitted estimator itself."""
    names = list(getattr(model, "feature_names_in_", ()))
    if names == [column.name for column in columns]:  # it may select them by name
        return EstimatorScorer(model, columns).score(matrix)
    with warnings.catch_warnings():
        # The column names are missing on purpose: compile_components has checked their order against the manifest.
        warnings.filterwarnings("ignore", "X does not have valid feature names", UserWarning)
        return np.asarray(model.predict_proba(matrix))
