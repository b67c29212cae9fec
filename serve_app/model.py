"""From a matrix of features to the probabilities of the classes. Pure; knows no columns, no requests, no files.

A fitted estimator is compiled to arrays, because one scikit-learn call costs more than a whole request may. Each row is
summed on its own, in the same order, whatever else is in the matrix, so that a row's probability is the same to the last
bit alone and among ten thousand: BLAS (``X @ w``) does not promise that, ``numpy.einsum`` on a C-ordered matrix keeps it.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from serve_app.errors import ComponentsError

__all__ = ["LinearBinaryScorer", "Scorer", "compile_scorer", "predicted_class_indices"]


class Scorer(Protocol):
    """Anything that turns features into probabilities, row by row, each row's answer independent of the others."""

    def score(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities of shape (rows, classes) for a C-ordered float64 matrix of shape (rows, features)."""
        ...


class LinearBinaryScorer:
    """A logistic regression on two classes: ``p(positive) = expit(matrix · coefficients + intercept)``.

    Args:
        coefficients: shape (features,).
        intercept: 0.0 for a model without one.
    """

    def __init__(self, coefficients: NDArray[np.float64], intercept: float) -> None:
        self._coefficients = np.ascontiguousarray(coefficients, dtype=np.float64)
        self._intercept = float(intercept)

    def score(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities of shape (rows, 2), the positive class second."""
        log_odds = np.einsum("ij,j->i", matrix, self._coefficients)
        log_odds += self._intercept
        probabilities = np.empty((len(matrix), 2))
        expit(log_odds, out=probabilities[:, 1])
        np.subtract(1.0, probabilities[:, 1], out=probabilities[:, 0])
        return probabilities


def compile_scorer(estimator: Any) -> Scorer:
    """The scorer that equals ``estimator.predict_proba``.

    Raises:
        ComponentsError: an estimator that nothing here can compile.
    """
    from sklearn.linear_model import LogisticRegression

    if isinstance(estimator, LogisticRegression) and len(estimator.classes_) == 2:
        return LinearBinaryScorer(estimator.coef_[0], float(np.ravel(estimator.intercept_)[0]))
    raise ComponentsError("model.pkl", f"{type(estimator).__name__} on {len(estimator.classes_)} classes cannot be served")


def predicted_class_indices(probabilities: NDArray[np.float64], threshold: float) -> NDArray[np.intp]:
    """Which class each row is given: shape (rows,).

    Of two classes the second, the positive one, from ``threshold`` on; of more the most probable.
    """
    if probabilities.shape[1] == 2:
        return (probabilities[:, 1] >= threshold).astype(np.intp)
    return np.asarray(probabilities.argmax(axis=1))
