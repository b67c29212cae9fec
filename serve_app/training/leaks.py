"""Columns that predict the target too well to have been known before it.

Pure: knows no table and no file. Decides nothing: the user is warned, and the column stays in the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from serve_app.scoring.arrays import Array

__all__ = ["leaking_columns"]

LEAK_AUC = 0.99
_MAX_ROWS = 10_000


def leaking_columns(names: Sequence[str], values: Array, classes: NDArray[np.intp], seed: int) -> Mapping[str, float]:
    """The columns that reach an AUC above 0.99 on their own, with that AUC.

    A small tree is fitted to one column on half of the rows (10,000 at most) and measured on the other half.

    Args:
        names: of the columns.
        values: shape (rows, columns).
        classes: the position of each row's class, shape (rows,).
        seed: for the choice of rows.
    """
    from sklearn.model_selection import train_test_split
    from sklearn.tree import DecisionTreeClassifier

    rows = np.arange(len(values))
    if len(rows) > _MAX_ROWS:
        rows, _ = train_test_split(rows, train_size=_MAX_ROWS, random_state=seed, stratify=classes)
    fitted, others = train_test_split(rows, test_size=0.5, random_state=seed, stratify=classes[rows])
    found = {}
    for index, name in enumerate(names):
        cells = values[:, [index]]
        tree = DecisionTreeClassifier(max_leaf_nodes=16, min_samples_leaf=2, random_state=seed)
        probabilities = tree.fit(cells[fitted], classes[fitted]).predict_proba(cells[others])
        aucs = [
            _area_under_curve(classes[others] == label, probabilities[:, position])
            for position, label in enumerate(tree.classes_)
            if 0 < (classes[others] == label).sum() < len(others)
        ]
        auc = float(np.mean(aucs))
        if auc > LEAK_AUC:
            found[name] = auc
    return found


def _area_under_curve(is_positive: NDArray[np.bool_], scores: Array) -> float:
    """By ranks (Mann and Whitney 1947), because scikit-learn's function spends most of its time on checks."""
    from scipy.stats import rankdata

    positives = int(is_positive.sum())
    smallest = positives * (positives + 1) / 2
    return float((rankdata(scores)[is_positive].sum() - smallest) / (positives * (len(scores) - positives)))
