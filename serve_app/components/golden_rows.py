"""Golden rows: rows with the probabilities that scikit-learn itself gave them, by which a model is proven when it is loaded."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from serve_app.components.manifest import Draft, GoldenRow, Manifest, in_selected_order
from serve_app.scoring.arrays import Array
from serve_app.scoring.rows import RowParser
from serve_app.scoring.schema import MISSING, Column, Feature, Schema
from serve_app.scoring.sklearn_scorers import EstimatorScorer

__all__ = ["golden_arrays", "predict_proba", "score_golden_rows"]

GOLDEN_TOLERANCE = 1e-12


def golden_arrays(parser: RowParser, golden: Sequence[GoldenRow]) -> tuple[Array, Array]:
    """Golden rows as a values array of shape (rows, columns), and their probabilities.

    Raises:
        ValueError: one of them cannot be read.
    """
    chunks = list(parser.chunks(msgspec.json.encode([row.row for row in golden])))
    problems = [problem for chunk in chunks for problem in chunk.problems]
    if problems:
        raise ValueError(f"golden {problems[0].message}")
    values = np.concatenate([chunk.values for chunk in chunks])
    return values, np.array([row.probabilities for row in golden])


def score_golden_rows(manifest: Manifest, draft: Draft) -> tuple[GoldenRow, ...]:
    """The golden rows with what scikit-learn itself, uncompiled, makes of them: imputer, scaler, levels, model."""
    import pandas as pd

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
    """Probabilities by the fitted estimator itself, of shape (rows, classes)."""
    names = list(getattr(model, "feature_names_in_", ()))
    if names == [column.name for column in columns]:  # it may address them by name
        return EstimatorScorer(model, columns).score(matrix)
    with warnings.catch_warnings():
        # scikit-learn misses the column names; compile_components has compared their order with the manifest's.
        warnings.filterwarnings("ignore", "X does not have valid feature names", UserWarning)
        return np.asarray(model.predict_proba(matrix))
