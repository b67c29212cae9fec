"""Which rows are fitted and which are held back, and cross-validation on the former.

Owns the two kinds of rows that no figure may mix up. Knows no table and no method: a model is whatever ``fit`` returns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from serve_app.scoring.arrays import Array
from serve_app.training.figures import measure

__all__ = ["CrossValidation", "OutOfFold", "Split", "Spread", "cross_predict", "split_rows"]

_HELD_BACK_SHARE = 0.2


class Split(NamedTuple):
    """Row numbers: those that models are fitted to, and those that are only measured on, once, at the end."""

    fitted: NDArray[np.intp]
    held_back: NDArray[np.intp]


def split_rows(classes: NDArray[np.intp], seed: int) -> Split:
    """Holds back one row in five; both parts keep the table's order and its share of each class.

    Rows without a class, whose code is negative, are in neither part.
    """
    from sklearn.model_selection import train_test_split

    known = np.flatnonzero(classes >= 0)
    fitted, held_back = train_test_split(known, test_size=_HELD_BACK_SHARE, random_state=seed, stratify=classes[known])
    return Split(np.sort(fitted), np.sort(held_back))


class Spread(msgspec.Struct, frozen=True):
    """The mean and the standard deviation of one figure over the folds."""

    mean: float
    deviation: float


class CrossValidation(msgspec.Struct, frozen=True):
    """Figures of models that were each fitted without one fold and measured on that fold."""

    folds: int
    auc: Spread
    log_loss: Spread
    accuracy: Spread


@dataclass(frozen=True)
class OutOfFold:
    """For each fitted row, the probabilities from a model that was fitted without it.

    ``probabilities`` has shape (fitted rows, classes); ``fold`` holds the number of each row's fold.
    """

    probabilities: Array
    fold: NDArray[np.intp]

    def measure(self, classes: NDArray[np.intp], threshold: float, shares: Array) -> CrossValidation:
        """The figures of each fold, and their spread; ``classes`` and ``shares`` are those of the fitted rows."""
        rows_of = [self.fold == fold for fold in range(int(self.fold.max()) + 1)]
        found = [measure(classes[rows], self.probabilities[rows], threshold, shares) for rows in rows_of]
        return CrossValidation(
            len(found),
            auc=_spread([figures.auc for figures in found]),
            log_loss=_spread([figures.log_loss for figures in found]),
            accuracy=_spread([figures.accuracy for figures in found]),
        )


def _spread(figures: list[float]) -> Spread:
    return Spread(float(np.mean(figures)), float(np.std(figures, ddof=1)))


class _Model(Protocol):
    def score(self, values: Array) -> Array:
        """Probabilities of shape (rows, classes)."""
        ...


def cross_predict(
    fit: Callable[[NDArray[np.intp]], _Model], values: Array, classes: NDArray[np.intp], folds: int, seed: int
) -> OutOfFold:
    """Fits a model without each fold in turn and scores that fold with it.

    Args:
        fit: a model fitted to the rows with these numbers.
        values: of the rows to fit, shape (rows, columns).
        classes: the position of each row's class, shape (rows,).
        folds: how many; fewer are made if a class has fewer rows, so that each fold has a row of each class.
        seed: for the choice of folds.
    """
    from sklearn.model_selection import StratifiedKFold

    folds = min(folds, int(np.bincount(classes).min()))
    probabilities = np.empty((len(classes), int(classes.max()) + 1))
    fold_of = np.empty(len(classes), dtype=np.intp)
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed).split(values, classes)
    for number, (others, fold) in enumerate(splits):
        probabilities[fold] = fit(others).score(values[fold])
        fold_of[fold] = number
    return OutOfFold(probabilities, fold_of)
