"""How much each column is worth to a model. Knows no page and no file."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serve_app.training.figures import area_under_curve
from serve_app.training.results import Evidence

__all__ = ["importances"]

_MAX_ROWS = 2000


def importances(evidence: Evidence, seed: int = 0) -> dict[str, float]:
    """The AUC that is lost when one column is shuffled, by column, the largest loss first.

    Measured on the held-back rows, 2,000 of them at most.
    """
    random = np.random.default_rng(seed)
    rows = evidence.held_back
    if len(rows) > _MAX_ROWS:
        rows = _stratified(rows, evidence.classes[rows], random)
    values, classes = evidence.values[rows], evidence.classes[rows]
    whole = area_under_curve(classes, evidence.score(values))
    lost = {}
    for index, column in enumerate(evidence.schema.columns):
        shuffled = values.copy()
        shuffled[:, index] = random.permutation(shuffled[:, index])
        lost[column.name] = whole - area_under_curve(classes, evidence.score(shuffled))
    return dict(sorted(lost.items(), key=lambda item: -item[1]))


def _stratified(rows: NDArray[np.intp], classes: NDArray[np.intp], random: np.random.Generator) -> NDArray[np.intp]:
    """Some of the rows: the same share of each class, and at least one row of it."""
    share = _MAX_ROWS / len(rows)
    members = [rows[classes == label] for label in np.unique(classes)]
    return np.concatenate([random.choice(some, max(1, round(share * len(some))), replace=False) for some in members])
