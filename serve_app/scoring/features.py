"""From rows of values to the model's matrix. Knows no JSON, no requests and no files.

A *values* array has shape (rows, selected columns) and type float64: a number as itself, a category as the position of its
level, NaN for a missing value or an unknown category. The matrix has shape (rows, features), is float64 and C-ordered. Means,
scales and levels come from the fitted components; nothing is inferred from the rows, so the features of a row do not depend on
the rows next to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from serve_app.scoring.arrays import Array
from serve_app.scoring.schema import MISSING, Column, Feature

__all__ = ["FeatureEncoder", "NumericFit"]


class NumericFit:
    """What was learned about a numeric column: ``imputed`` replaces a missing value, then ``(value - mean) / scale``."""

    def __init__(self, *, imputed: float, mean: float, scale: float) -> None:
        self.imputed = imputed
        self.mean = mean
        self.scale = scale


class FeatureEncoder:
    """Imputes and standardises numbers, and one-hot encodes categories.

    Args:
        columns: the selected raw columns, in the order of the values array.
        features: the matrix's columns, in the model's order.
        fits: what was learned about each numeric column that a feature uses, by name.
    """

    def __init__(self, columns: Sequence[Column], features: Sequence[Feature], fits: Mapping[str, NumericFit]) -> None:
        position = {column.name: index for index, column in enumerate(columns)}
        by_name = {column.name: column for column in columns}
        numbers = [(index, feature) for index, feature in enumerate(features) if feature.level is None]
        missing = [(index, feature) for index, feature in enumerate(features) if feature.level == MISSING]
        levels = [(index, feature) for index, feature in enumerate(features) if feature.level not in {None, MISSING}]
        self.columns = tuple(columns)
        self.features = tuple(features)
        self._number_targets = np.array([index for index, _ in numbers], dtype=np.intp)
        self._number_sources = np.array([position[feature.column] for _, feature in numbers], dtype=np.intp)
        self._imputed = np.array([fits[feature.column].imputed for _, feature in numbers])
        self._means = np.array([fits[feature.column].mean for _, feature in numbers])
        self._scales = np.array([fits[feature.column].scale for _, feature in numbers])
        self._level_targets = np.array([index for index, _ in levels], dtype=np.intp)
        self._level_sources = np.array([position[feature.column] for _, feature in levels], dtype=np.intp)
        self._missing_targets = np.array([index for index, _ in missing], dtype=np.intp)
        self._missing_sources = np.array([position[feature.column] for _, feature in missing], dtype=np.intp)
        self._level_codes = np.array([float(by_name[feature.column].levels.index(str(feature.level))) for _, feature in levels])

    @property
    def max_magnitude(self) -> float:
        """A number below which the features of a row, multiplied by the model's coefficients, stay finite."""
        return 1e300 * min(1.0, *(float(scale) for scale in self._scales)) if len(self._scales) else 1e300

    def encode(self, values: Array) -> Array:
        """The matrix, shape (rows, features), of a values array of shape (rows, selected columns)."""
        matrix = np.empty((len(values), len(self.features)))
        numbers = values[:, self._number_sources]
        np.copyto(numbers, self._imputed, where=np.isnan(numbers))
        numbers -= self._means
        numbers /= self._scales
        matrix[:, self._number_targets] = numbers
        matrix[:, self._level_targets] = values[:, self._level_sources] == self._level_codes
        if len(self._missing_targets):
            matrix[:, self._missing_targets] = np.isnan(values[:, self._missing_sources])
        return matrix
