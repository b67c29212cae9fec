"""The ways to fit a model, behind one interface: values and classes in, features and fitted estimators out.

Owns what each method fits and on which features. Knows no table, no file and no figures of merit.

- ``two-stage``, the exercise's: an L1 logit selects the strongest features; a logit without penalty and without intercept is
  fitted to those. With three or more classes, a feature is as strong as it is at telling one class from the others.
- ``logit``: a logistic regression with an L2 penalty (C = 1) and an intercept, on all features.
- ``trees``: scikit-learn's HistGradientBoostingClassifier on all features, with raw numbers.

The logits get standardised numbers, with the mean for a missing one. The trees get raw numbers and learn which way missing ones
go. In all of them a missing category counts as the baseline.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from serve_app.components.compiled import numeric_fits
from serve_app.scoring.arrays import Array
from serve_app.scoring.cells import excerpt
from serve_app.scoring.features import FeatureEncoder, NumericFit
from serve_app.scoring.schema import Feature, Schema
from serve_app.scoring.scorers import compile_scorer

__all__ = ["METHODS", "Fitted", "Method", "UnfitTableError"]

Method = Literal["two-stage", "logit", "trees"]


class UnfitTableError(ValueError):
    """No model can be fitted; the message continues a sentence that starts with the table's name."""


@dataclass(frozen=True)
class Fitted:
    """A fitted model.

    ``encoder`` turns values of *all* columns of the schema into the model's matrix. ``imputer`` and ``scaler``, of
    scikit-learn, are None if the model uses raw numbers, or if there are no numbers.
    """

    features: tuple[Feature, ...]
    encoder: FeatureEncoder
    imputer: Any
    scaler: Any
    model: Any
    is_raw: bool

    def score(self, values: Array) -> Array:
        """Probabilities of shape (rows, classes) for values of shape (rows, columns of the schema)."""
        return compile_scorer(self.model).score(self.encoder.encode(values))


def _fit_two_stage(schema: Schema, values: Array, classes: NDArray[Any], seed: int, selected: int) -> Fitted:
    imputer, scaler, encoder = _standardise(schema, values)
    matrix = encoder.encode(values)
    strongest = _select_strongest(matrix, classes, seed)[:selected]
    if not strongest:
        raise UnfitTableError("no column tells the classes apart")
    features = tuple(encoder.features[index] for index in strongest)
    fits = numeric_fits(schema.numeric, imputer, scaler) if schema.numeric else {}
    matrix = np.ascontiguousarray(matrix[:, strongest])
    logit = _logistic_regression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=1000)
    model = _fit(logit, features, matrix, classes)
    return Fitted(features, FeatureEncoder(schema.columns, features, fits), imputer, scaler, model, is_raw=False)


def _fit_logit(schema: Schema, values: Array, classes: NDArray[Any], seed: int, selected: int) -> Fitted:
    del seed, selected
    imputer, scaler, encoder = _standardise(schema, values)
    model = _fit(_logistic_regression(tol=1e-8, max_iter=1000), encoder.features, encoder.encode(values), classes)
    return Fitted(encoder.features, encoder, imputer, scaler, model, is_raw=False)


def _fit_trees(schema: Schema, values: Array, classes: NDArray[Any], seed: int, selected: int) -> Fitted:
    from sklearn.ensemble import HistGradientBoostingClassifier

    del selected
    fits = {column.name: NumericFit(imputed=np.nan, mean=0.0, scale=1.0) for column in schema.numeric}
    encoder = FeatureEncoder(schema.columns, schema.all_features(), fits)
    model = _fit(HistGradientBoostingClassifier(random_state=seed), encoder.features, encoder.encode(values), classes)
    return Fitted(encoder.features, encoder, None, None, model, is_raw=True)


FitFunction = Callable[[Schema, Array, NDArray[Any], int, int], Fitted]
METHODS: MappingProxyType[Method, FitFunction] = MappingProxyType(
    {"two-stage": _fit_two_stage, "logit": _fit_logit, "trees": _fit_trees}
)
"""The functions that fit, by name.

Arguments: the schema; values of shape (rows, columns of the schema); the class of each row; a seed for everything random; the
most features that a method may select, if it selects any. Each raises UnfitTableError if it cannot fit.
"""


def _standardise(schema: Schema, values: Array) -> tuple[Any, Any, FeatureEncoder]:
    """An imputer and a scaler of all numeric columns (None if there are none), and the encoder of every feature."""
    import pandas as pd
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import StandardScaler

    if not schema.numeric:
        return None, None, FeatureEncoder(schema.columns, schema.all_features(), {})
    numbers = pd.DataFrame(values, columns=[column.name for column in schema.columns])
    numbers = numbers[[column.name for column in schema.numeric]]
    imputer = SimpleImputer(strategy="mean", keep_empty_features=True).fit(numbers)
    scaler = StandardScaler().fit(pd.DataFrame(imputer.transform(numbers), columns=numbers.columns))
    encoder = FeatureEncoder(schema.columns, schema.all_features(), numeric_fits(schema.numeric, imputer, scaler))
    return imputer, scaler, encoder


def _select_strongest(matrix: Array, classes: NDArray[Any], seed: int) -> list[int]:
    """Positions of the features with a coefficient in an L1 logit, the largest first."""
    different = np.unique(classes)
    strength = np.zeros(matrix.shape[1])
    for positive in different[1:] if len(different) == 2 else different:
        logit = _logistic_regression(l1_ratio=1.0, solver="liblinear", fit_intercept=False, random_state=seed)
        with _unconverged_is_fine():  # only the ranking is used
            strength = np.maximum(strength, np.abs(logit.fit(matrix, classes == positive).coef_[0]))
    order = np.argsort(-strength, kind="stable")
    return [int(index) for index in order if strength[index] > 0]


def _fit(estimator: Any, features: Sequence[Feature], matrix: Array, classes: NDArray[Any]) -> Any:
    import pandas as pd

    _check_names(features)
    with _unconverged_is_fine():
        # Where the features separate the classes, coefficients grow without bound; the standard errors show it.
        return estimator.fit(pd.DataFrame(matrix, columns=[feature.name for feature in features]), classes)


def _check_names(features: Sequence[Feature]) -> None:
    by_name: dict[str, Feature] = {}
    for feature in features:
        other = by_name.setdefault(feature.name, feature)
        if other != feature:
            columns = f"{excerpt(other.column)} and {excerpt(feature.column)}"
            raise UnfitTableError(f"the columns {columns} both make a feature {excerpt(feature.name)}; rename one")


def _logistic_regression(**options: Any) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(**options)


def _unconverged_is_fine() -> AbstractContextManager[object]:
    from sklearn.exceptions import ConvergenceWarning

    return warnings.catch_warnings(action="ignore", category=ConvergenceWarning)
