"""Calibrated classifiers: from a model's margins (log-odds, or the sums of a softmax) to calibrated probabilities.

Owns what scikit-learn's CalibratedClassifierCV becomes if it holds one estimator (``ensemble=False``) and calibrates by a
sigmoid or by isotonic regression. Pure; each row is calibrated on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from scipy.special import expit

from serve_app.scoring.arrays import Array

__all__ = ["CalibratedScorer", "Calibration", "MarginScorer", "take_off_calibration"]

_Calibrator = Callable[[Array], Array]


class MarginScorer(Protocol):
    """A scorer that also gives the margins that its probabilities are made of."""

    scored_by: str

    def margins(self, matrix: Array) -> Array:
        """Shape (rows, 1) for two classes, (rows, classes) for more."""
        ...


class Calibration:
    """One calibrator for the positive class of two, or for each of more classes, whose results are normalised.

    Args:
        calibrators: from margins of shape (rows,) to probabilities of that shape.
    """

    def __init__(self, calibrators: Sequence[_Calibrator]) -> None:
        self._calibrators = tuple(calibrators)

    def probabilities(self, margins: Array) -> Array:
        """Probabilities of shape (rows, classes) for margins of shape (rows, 1) or (rows, classes)."""
        calibrated = np.column_stack([one(margins[:, index]) for index, one in enumerate(self._calibrators)])
        if calibrated.shape[1] == 1:
            return np.hstack([1.0 - calibrated, calibrated])
        total = calibrated.sum(axis=1, keepdims=True)
        uniform = np.full_like(calibrated, 1 / calibrated.shape[1])
        return np.asarray(np.divide(calibrated, total, out=uniform, where=total != 0))


class CalibratedScorer:
    """A scorer whose margins are calibrated."""

    def __init__(self, scorer: MarginScorer, calibration: Calibration) -> None:
        self._scorer = scorer
        self._calibration = calibration
        self.scored_by = f"{scorer.scored_by}, calibrated"

    def score(self, matrix: Array) -> Array:
        """Probabilities of shape (rows, classes) for a matrix of shape (rows, features)."""
        return self._calibration.probabilities(self._scorer.margins(matrix))


def take_off_calibration(estimator: Any) -> tuple[Any, Calibration | None]:
    """The estimator within a calibrated one, and its calibration; an estimator that is not calibrated, and None.

    An estimator that is calibrated in another way than this module knows is returned as it is.
    """
    from sklearn.calibration import CalibratedClassifierCV

    if not isinstance(estimator, CalibratedClassifierCV) or len(estimator.calibrated_classifiers_) != 1:
        return estimator, None
    (only,) = estimator.calibrated_classifiers_
    calibrators = [_compile_calibrator(calibrator) for calibrator in only.calibrators]
    known = [calibrator for calibrator in calibrators if calibrator is not None]
    if len(known) < len(calibrators) or not hasattr(only.estimator, "decision_function"):
        return estimator, None
    return only.estimator, Calibration(known)


def _compile_calibrator(calibrator: Any) -> _Calibrator | None:
    from sklearn.isotonic import IsotonicRegression

    if isinstance(calibrator, IsotonicRegression):
        margins, probabilities = calibrator.X_thresholds_, calibrator.y_thresholds_
        return lambda found: np.interp(found, margins, probabilities)
    if hasattr(calibrator, "a_") and hasattr(calibrator, "b_"):  # a private class: Platt's sigmoid
        slope, intercept = float(calibrator.a_), float(calibrator.b_)
        return lambda found: np.asarray(expit(-(slope * found + intercept)))
    return None
