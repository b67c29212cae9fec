"""How good probabilities are. Pure: arrays in, figures out; knows no model, no table and no file."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from serve_app.scoring.arrays import Array
from serve_app.scoring.scorers import predicted_class_indices

__all__ = ["Figures", "area_under_curve", "measure"]

_LEAST_PROBABILITY = 1e-15


class Figures(msgspec.Struct, frozen=True):
    """How well probabilities fit the classes of some rows.

    ``auc`` and ``pr_auc`` (average precision) are those of the positive class of two, otherwise the mean over each class
    against the others. ``brier`` is the mean squared error of the probabilities: of the positive class, otherwise summed over
    all. ``mean_probability``, of the positive class, should be close to ``positive_share``; both are None with three or more
    classes. ``majority_accuracy`` and ``majority_log_loss`` are those of always answering the most frequent class of the fitted
    rows, with their class shares as probabilities: any model should do better.
    """

    rows: int
    positive_share: float | None
    auc: float
    log_loss: float
    accuracy: float
    pr_auc: float
    brier: float
    mean_probability: float | None
    majority_log_loss: float
    majority_accuracy: float


def measure(classes: NDArray[np.intp], probabilities: Array, threshold: float, shares: Array) -> Figures:
    """The figures of some rows.

    Args:
        classes: the position of each row's class, shape (rows,).
        probabilities: shape (rows, classes).
        threshold: of two classes; from this probability on, a row counts as positive.
        shares: of each class among the rows that the model was fitted to, shape (classes,).
    """
    from sklearn.metrics import average_precision_score, log_loss

    labels = np.arange(probabilities.shape[1])
    is_binary = len(labels) == 2
    ranked = _ranked_classes(probabilities)
    brier = (np.square(probabilities - (classes[:, np.newaxis] == labels))[:, ranked]).sum(axis=1)
    return Figures(
        rows=len(classes),
        positive_share=float((classes == 1).mean()) if is_binary else None,
        auc=area_under_curve(classes, probabilities),
        log_loss=float(log_loss(classes, probabilities, labels=labels)),
        accuracy=float((predicted_class_indices(probabilities, threshold) == classes).mean()),
        pr_auc=float(np.mean([average_precision_score(classes == label, probabilities[:, label]) for label in ranked])),
        brier=float(brier.mean()),
        mean_probability=float(probabilities[:, 1].mean()) if is_binary else None,
        majority_log_loss=float(-np.log(np.maximum(shares, _LEAST_PROBABILITY))[classes].mean()),
        majority_accuracy=float((classes == shares.argmax()).mean()),
    )


def area_under_curve(classes: NDArray[np.intp], probabilities: Array) -> float:
    """The AUC alone; arguments as for ``measure``."""
    from sklearn.metrics import roc_auc_score

    ranked = _ranked_classes(probabilities)
    return float(np.mean([roc_auc_score(classes == label, probabilities[:, label]) for label in ranked]))


def _ranked_classes(probabilities: Array) -> list[int]:
    """The positive class of two, otherwise all of them."""
    return [1] if probabilities.shape[1] == 2 else list(range(probabilities.shape[1]))
