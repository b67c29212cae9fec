"""From a matrix of features to the probabilities of the classes. Knows no requests and no files.

A fitted estimator is compiled to arrays, because one call of scikit-learn is slower than a whole request may be. The terms of a
row are always added in the same order, so its probability is the same to the last bit, alone and among ten thousand rows. BLAS
(``X @ w``) does not guarantee that; ``numpy.einsum`` on a C-ordered matrix does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from serve_app.errors import ComponentsError
from serve_app.scoring.arrays import Array
from serve_app.scoring.calibration import CalibratedScorer, Calibration, take_off_calibration
from serve_app.scoring.schema import Column
from serve_app.scoring.sklearn_scorers import BlockScorer, EstimatorScorer, answers_depend_on_the_batch
from serve_app.scoring.trees import BoostedTreesScorer, compile_trees, softmax

__all__ = [
    "LinearBinaryScorer",
    "LinearMulticlassScorer",
    "Scorer",
    "StandardisingScorer",
    "compile_scorer",
    "predicted_class_indices",
    "settle",
    "standardise",
    "take_apart",
]

Step = tuple[Array | None, Any, Any]
"""What replaces a missing number (or None), what is subtracted, and the divisor; each of shape (features,)."""

_BLOCK_ROWS = 32


class Scorer(Protocol):
    """Turns features into probabilities; the answer to a row must not depend on the other rows.

    ``scored_by`` says in words how it does so.
    """

    scored_by: str

    def score(self, matrix: Array) -> Array:
        """Probabilities of shape (rows, classes) for a C-ordered float64 matrix of shape (rows, features)."""
        ...


class LinearBinaryScorer:
    """A logistic regression on two classes: ``p(positive) = expit(matrix · coefficients + intercept)``.

    Args:
        coefficients: shape (features,).
        intercept: 0.0 for a model without one.
    """

    scored_by = "compiled coefficients"

    def __init__(self, coefficients: Array, intercept: float) -> None:
        self._coefficients = np.ascontiguousarray(coefficients, dtype=np.float64)
        self._intercept = float(intercept)

    def score(self, matrix: Array) -> Array:
        """Probabilities of shape (rows, 2), the positive class second."""
        probabilities = np.empty((len(matrix), 2))
        expit(self.margins(matrix)[:, 0], out=probabilities[:, 1])
        np.subtract(1.0, probabilities[:, 1], out=probabilities[:, 0])
        return probabilities

    def margins(self, matrix: Array) -> Array:
        """The log-odds of the positive class, shape (rows, 1)."""
        log_odds = np.einsum("ij,j->i", matrix, self._coefficients)
        log_odds += self._intercept
        return np.reshape(log_odds, (-1, 1))


class LinearMulticlassScorer:
    """A logistic regression on three or more classes: the softmax of one sum per class.

    Args:
        coefficients: shape (classes, features).
        intercepts: shape (classes,).
    """

    scored_by = "compiled coefficients"

    def __init__(self, coefficients: Array, intercepts: Array) -> None:
        self._coefficients = np.ascontiguousarray(coefficients, dtype=np.float64)
        self._intercepts = np.asarray(intercepts, dtype=np.float64)

    def score(self, matrix: Array) -> Array:
        """Probabilities of shape (rows, classes)."""
        return softmax(self.margins(matrix))

    def margins(self, matrix: Array) -> Array:
        """The sums of the softmax, shape (rows, classes)."""
        sums = np.empty((len(matrix), len(self._coefficients)))
        for index, coefficients in enumerate(self._coefficients):
            sums[:, index] = np.einsum("ij,j->i", matrix, coefficients)
        sums += self._intercepts
        return sums


class StandardisingScorer:
    """Imputing and scaling steps, and a compiled estimator after them.

    Args:
        steps: of the Pipeline, without the estimator.
        scorer: of the estimator.
    """

    def __init__(self, steps: Sequence[Step], scorer: Scorer) -> None:
        self._steps = tuple(steps)
        self._scorer = scorer
        self.scored_by = scorer.scored_by

    def score(self, matrix: Array) -> Array:
        """Probabilities of shape (rows, classes) for a matrix of shape (rows, features)."""
        return self._scorer.score(standardise(matrix, self._steps))


def standardise(matrix: Array, steps: Sequence[Step]) -> Array:
    """The matrix after all steps, of the same shape, C-ordered."""
    for imputed, mean, scale in steps:
        filled = matrix if imputed is None else np.where(np.isnan(matrix), imputed, matrix)
        matrix = (filled - mean) / scale
    return np.ascontiguousarray(matrix)


def take_apart(estimator: Any) -> tuple[list[Step], Any] | None:
    """The imputing and scaling steps before an estimator, and the estimator; None if there is a step of another kind."""
    from sklearn.pipeline import Pipeline

    if not isinstance(estimator, Pipeline):
        return [], estimator
    steps = [_compile_step(step) for _, step in estimator.steps[:-1]]
    known = [step for step in steps if step is not None]
    rest = take_apart(estimator.steps[-1][1])
    return None if rest is None or len(known) < len(steps) else ([*known, *rest[0]], rest[1])


def compile_scorer(estimator: Any, columns: Sequence[Column] = ()) -> Scorer:
    """A scorer that equals ``estimator.predict_proba``: compiled if possible, else the estimator itself.

    Args:
        estimator: a fitted classifier of scikit-learn.
        columns: the raw columns, if they are the features. Otherwise an estimator that cannot be compiled is refused.

    Raises:
        ComponentsError: it cannot be served.
    """
    compiled = _compile(estimator)
    if compiled is not None:
        return compiled
    name = type(estimator).__name__
    if columns and hasattr(estimator, "predict_proba"):
        return EstimatorScorer(estimator, columns)
    raise ComponentsError("model.pkl", f"{name} on {len(getattr(estimator, 'classes_', ()))} classes cannot be served")


def settle(scorer: Scorer, matrix: Array) -> Scorer:
    """A scorer whose answers do not depend on the other rows of the batch, as measured on rows like those of ``matrix``."""
    if not answers_depend_on_the_batch(scorer.score, matrix):
        return scorer
    if isinstance(scorer, BoostedTreesScorer):
        return settle(scorer.compiled, matrix)
    in_blocks = BlockScorer(scorer, _BLOCK_ROWS)
    return BlockScorer(scorer, 1) if answers_depend_on_the_batch(in_blocks.score, matrix) else in_blocks


def _compile(estimator: Any) -> Scorer | None:
    from sklearn.linear_model import LogisticRegression

    parts = take_apart(estimator)
    if parts is None:
        return None
    inner, calibration = take_off_calibration(estimator)
    if calibration is not None:
        return _compile_calibrated(inner, calibration)
    steps, last = parts
    if last is not estimator:
        scorer = _compile(last)
        return scorer and StandardisingScorer(steps, scorer)
    if isinstance(estimator, LogisticRegression):
        return _compile_linear(estimator)
    trees = compile_trees(estimator)
    return BoostedTreesScorer(trees, estimator) if trees is not None and hasattr(estimator, "_predictors") else trees


def _compile_linear(model: Any) -> LinearBinaryScorer | LinearMulticlassScorer:
    if len(model.classes_) == 2:
        return LinearBinaryScorer(model.coef_[0], float(np.ravel(model.intercept_)[0]))
    return LinearMulticlassScorer(model.coef_, np.broadcast_to(np.ravel(model.intercept_), len(model.classes_)))


def _compile_calibrated(inner: Any, calibration: Calibration) -> Scorer | None:
    scorer = _compile(inner)
    if isinstance(scorer, (LinearBinaryScorer, LinearMulticlassScorer, BoostedTreesScorer)):
        return CalibratedScorer(scorer, calibration)
    return None


def _compile_step(step: Any) -> Step | None:
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import StandardScaler

    if isinstance(step, StandardScaler):
        return None, 0.0 if step.mean_ is None or not step.with_mean else step.mean_, step.scale_ if step.with_std else 1.0
    if isinstance(step, SimpleImputer) and step.indicator_ is None and np.isnan(step.missing_values):
        imputed = np.asarray(step.statistics_, dtype=np.float64)
        return None if np.isnan(imputed).any() else (imputed, 0.0, 1.0)
    return None


def predicted_class_indices(probabilities: Array, threshold: float) -> NDArray[np.intp]:
    """The position of each row's predicted class, shape (rows,).

    Of two classes it is the positive one, the second, if its probability reaches ``threshold``; of more the most probable one.
    """
    if probabilities.shape[1] == 2:
        return (probabilities[:, 1] >= threshold).astype(np.intp)
    return np.asarray(probabilities.argmax(axis=1))
