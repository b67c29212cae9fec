"""Which method fits the model: the user's, or of the candidates the one with the lowest cross-validated log loss.

Owns the comparison, on the fitted rows alone. Candidates are compared as they are, before any calibration: calibrating each of
them would cost five more fits a fold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from serve_app.training.folds import CrossValidation, OutOfFold, cross_predict
from serve_app.training.methods import FitOptions, Fitted, Method, UnfitTableError, fit_model
from serve_app.training.training_data import TrainingData

__all__ = ["Choice", "choose_method", "fit_rows"]

_CANDIDATES: tuple[Method, ...] = ("logit", "trees")


@dataclass(frozen=True)
class Choice:
    """The method, the probabilities of its folds (None without folds), and the figures of the candidates, best first."""

    method: Method
    out_of_fold: OutOfFold | None
    candidates: Mapping[Method, CrossValidation]


def choose_method(data: TrainingData, method: Method | Literal["auto"], options: FitOptions, folds: int) -> Choice:
    """Cross-validates the method, or compares the candidates if it is ``auto``, which needs folds.

    Raises:
        TableError: no model can be fitted.
    """
    if method != "auto":
        return Choice(method, _cross_predict(data, method, options, folds) if folds else None, {})
    plain = replace(options, calibration=None)
    found = {candidate: _cross_predict(data, candidate, plain, folds) for candidate in _CANDIDATES}
    figures = {
        candidate: out_of_fold.measure(data.fitted_codes, 0.5, data.fitted_shares) for candidate, out_of_fold in found.items()
    }
    ranked = sorted(_CANDIDATES, key=lambda candidate: figures[candidate].log_loss.mean)
    best = ranked[0]
    out_of_fold = found[best] if options.calibration is None else _cross_predict(data, best, options, folds)
    return Choice(best, out_of_fold, {candidate: figures[candidate] for candidate in ranked})


def fit_rows(data: TrainingData, method: Method, rows: NDArray[np.intp], options: FitOptions) -> Fitted:
    """A model fitted to the rows with these numbers.

    Raises:
        TableError: no model can be fitted.
    """
    try:
        return fit_model(method, data.schema, data.values[rows], data.target.codes[rows], data.target.classes, options)
    except UnfitTableError as error:
        raise data.table.error(str(error)) from None


def _cross_predict(data: TrainingData, method: Method, options: FitOptions, folds: int) -> OutOfFold:
    fitted = data.split.fitted
    return cross_predict(
        lambda rows: fit_rows(data, method, fitted[rows], options), data.values[fitted], data.fitted_codes, folds, options.seed
    )
