"""The ways to fit a model, behind one interface: values and classes in, features and fitted estimators out.

Owns what each method fits and on which features. Knows no table, no file and no figures of merit.

- ``two-stage``, the exercise's: an L1 logit selects the strongest features; a logit without penalty and without intercept is
  fitted to those. With three or more classes, a feature is as strong as it is at telling one class from the others. Each
  category has a baseline, its first level, and a missing category counts as that. Without an intercept, its probabilities fit
  balanced tables only.
- ``logit``: a logistic regression with an L2 penalty (C = 1) and an intercept.
- ``trees``: scikit-learn's HistGradientBoostingClassifier.

Both ``logit`` and ``trees`` use all columns and each level of each category. Both logits get standardised numbers, with the
mean for a missing one; the trees get raw numbers, and learn which way missing ones go. In ``logit`` a column that is missing in
some rows gets a feature that says so, in ``trees`` a category does.

Estimators are fitted to the positions of the classes, which then get their names: so the positive class can be any of two.
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
from serve_app.scoring.schema import MISSING, Column, Feature, Schema
from serve_app.scoring.scorers import compile_scorer
from serve_app.training.column_kinds import MIN_LEVEL_ROWS

__all__ = ["Calibration", "FitOptions", "Fitted", "Method", "UnfitTableError", "fit_model"]

Method = Literal["logit", "trees", "two-stage"]
Calibration = Literal["isotonic", "sigmoid"]
_CALIBRATION_FOLDS = 5


class UnfitTableError(ValueError):
    """No model can be fitted; the message continues a sentence that starts with the table's name."""


@dataclass(frozen=True)
class FitOptions:
    """``seed``: of everything random. ``selected``: the most features that ``two-stage`` selects.

    ``calibration``: how probabilities are calibrated, by cross-validation on the rows that are fitted; not for ``two-stage``.
    """

    seed: int
    selected: int = 25
    calibration: Calibration | None = None


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


def fit_model(  # noqa: PLR0913, PLR0917 - what a model is fitted to, and how
    method: Method,
    schema: Schema,
    values: Array,
    codes: NDArray[np.intp],
    classes: Sequence[float | str],
    options: FitOptions,
) -> Fitted:
    """Fits a model.

    Args:
        method: how.
        schema: the columns.
        values: shape (rows, columns of the schema).
        codes: the position of each row's class, shape (rows,).
        classes: the names that the model gives its classes.
        options: the other choices.

    Raises:
        UnfitTableError: no model can be fitted to these rows.
    """
    fitted = _METHODS[method](schema, values, codes, options)
    fitted.model.classes_ = np.array(classes)
    return fitted


def _fit_two_stage(schema: Schema, values: Array, codes: NDArray[np.intp], options: FitOptions) -> Fitted:
    features = schema.all_features()
    imputer, scaler, fits = _standardise(schema, values)
    matrix = FeatureEncoder(schema.columns, features, fits).encode(values)
    strongest = _select_strongest(matrix, codes, options.seed)[: options.selected]
    if not strongest:
        raise UnfitTableError("no column tells the classes apart")
    features = tuple(features[index] for index in strongest)
    matrix = np.ascontiguousarray(matrix[:, strongest])
    logit = _logistic_regression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=1000)
    model = _fit(logit, features, matrix, codes)
    return Fitted(features, FeatureEncoder(schema.columns, features, fits), imputer, scaler, model, is_raw=False)


def _fit_logit(schema: Schema, values: Array, codes: NDArray[np.intp], options: FitOptions) -> Fitted:
    imputer, scaler, fits = _standardise(schema, values)
    features = _all_features(schema, values, may_be_missing=schema.columns)
    encoder = FeatureEncoder(schema.columns, features, fits)
    logit = _calibrated(_logistic_regression(tol=1e-8, max_iter=1000), codes, options)
    model = _fit(logit, features, encoder.encode(values), codes)
    return Fitted(features, encoder, imputer, scaler, model, is_raw=False)


def _fit_trees(schema: Schema, values: Array, codes: NDArray[np.intp], options: FitOptions) -> Fitted:
    from sklearn.ensemble import HistGradientBoostingClassifier

    fits = {column.name: NumericFit(imputed=np.nan, mean=0.0, scale=1.0) for column in schema.numeric}
    features = _all_features(schema, values, may_be_missing=schema.categorical)
    encoder = FeatureEncoder(schema.columns, features, fits)
    trees = _calibrated(HistGradientBoostingClassifier(random_state=options.seed), codes, options)
    model = _fit(trees, features, encoder.encode(values), codes)
    return Fitted(features, encoder, None, None, model, is_raw=True)


_FitFunction = Callable[[Schema, Array, NDArray[np.intp], FitOptions], Fitted]
_METHODS: MappingProxyType[Method, _FitFunction] = MappingProxyType(
    {"logit": _fit_logit, "trees": _fit_trees, "two-stage": _fit_two_stage}
)


def _all_features(schema: Schema, values: Array, *, may_be_missing: Sequence[Column]) -> tuple[Feature, ...]:
    """Numbers first, then each level of each category, then a feature for each column that is missing in 5 rows or more."""
    numbers = [Feature(column.name) for column in schema.numeric]
    levels = [Feature(column.name, level) for column in schema.categorical for level in column.levels]
    counts = np.isnan(values).sum(axis=0)
    missing = [
        Feature(column.name, MISSING)
        for column, count in zip(schema.columns, counts, strict=True)
        if count >= MIN_LEVEL_ROWS and column in may_be_missing
    ]
    return (*numbers, *levels, *missing)


def _standardise(schema: Schema, values: Array) -> tuple[Any, Any, dict[str, NumericFit]]:
    """An imputer and a scaler of all numeric columns (None if there are none), and what they learned."""
    import pandas as pd
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import StandardScaler

    if not schema.numeric:
        return None, None, {}
    numbers = pd.DataFrame(values, columns=[column.name for column in schema.columns])
    numbers = numbers[[column.name for column in schema.numeric]]
    imputer = SimpleImputer(strategy="mean", keep_empty_features=True).fit(numbers)
    scaler = StandardScaler().fit(pd.DataFrame(imputer.transform(numbers), columns=numbers.columns))
    return imputer, scaler, numeric_fits(schema.numeric, imputer, scaler)


def _select_strongest(matrix: Array, codes: NDArray[np.intp], seed: int) -> list[int]:
    """Positions of the features with a coefficient in an L1 logit, the largest first."""
    different = np.unique(codes)
    strength = np.zeros(matrix.shape[1])
    for positive in different[1:] if len(different) == 2 else different:
        logit = _logistic_regression(l1_ratio=1.0, solver="liblinear", fit_intercept=False, random_state=seed)
        with _unconverged_is_fine():  # only the ranking is used
            strength = np.maximum(strength, np.abs(logit.fit(matrix, codes == positive).coef_[0]))
    order = np.argsort(-strength, kind="stable")
    return [int(index) for index in order if strength[index] > 0]


def _calibrated(estimator: Any, codes: NDArray[np.intp], options: FitOptions) -> Any:
    """The estimator, calibrated if that is wanted, by folds that each have a row of each class."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.model_selection import StratifiedKFold

    if options.calibration is None:
        return estimator
    folds = min(_CALIBRATION_FOLDS, int(np.bincount(codes).min()))
    if folds < 2:
        raise UnfitTableError("a class has too few rows to calibrate the probabilities by cross-validation")
    splits = StratifiedKFold(folds, shuffle=True, random_state=options.seed)
    return CalibratedClassifierCV(estimator, method=options.calibration, cv=splits, ensemble=False)


def _fit(estimator: Any, features: Sequence[Feature], matrix: Array, codes: NDArray[np.intp]) -> Any:
    import pandas as pd

    _check_names(features)
    with _unconverged_is_fine():
        # Where the features separate the classes, coefficients grow without bound; the standard errors show it.
        return estimator.fit(pd.DataFrame(matrix, columns=[feature.name for feature in features]), codes)


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
