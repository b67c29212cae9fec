"""How good probabilities are. Pure: arrays in, figures out; knows no model, no table and no file."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from serve_app.scoring.arrays import Array
from serve_app.scoring.scorers import predicted_class_indices

__all__ = ["Figures", "measure"]


class Figures(msgspec.Struct, frozen=True):
    """How well probabilities fit the classes of some rows.

    ``auc`` of three or more classes is the mean over each class against the others; ``positive_share`` is then None.
    """

    rows: int
    positive_share: float | None
    auc: float
    log_loss: float
    accuracy: float


def measure(classes: NDArray[np.intp], probabilities: Array, threshold: float) -> Figures:
    """The figures of some rows.

    Args:
        classes: the position of each row's class, shape (rows,).
        probabilities: shape (rows, classes).
        threshold: of two classes; from this probability on, a row counts as positive.
    """
    from sklearn.metrics import log_loss, roc_auc_score

    labels = np.arange(probabilities.shape[1])
    is_binary = len(labels) == 2
    if is_binary:
        auc = roc_auc_score(classes, probabilities[:, 1])
    else:
        auc = np.mean([roc_auc_score(classes == label, probabilities[:, label]) for label in labels])
    return Figures(
        rows=len(classes),
        positive_share=float((classes == 1).mean()) if is_binary else None,
        auc=float(auc),
        log_loss=float(log_loss(classes, probabilities, labels=labels)),
        accuracy=float((predicted_class_indices(probabilities, threshold) == classes).mean()),
    )
