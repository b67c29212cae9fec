"""How good probabilities are, and from which one on a row should count as positive. Pure; knows no model and no table.

Owns the figures that training reports, the rules that choose a threshold, and the test for a column that knows too much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from serve_app.scoring.arrays import Array
from serve_app.scoring.scorers import predicted_class_indices

__all__ = ["ThresholdRule", "choose_threshold", "leaking_columns", "measure"]

LEAK_AUC = 0.99
_LEAK_ROWS = 10_000


class ThresholdRule(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """How the threshold of two classes is chosen.

    ``fixed``: it is ``threshold``. ``top_share``: that share of the rows counts as positive. ``cost``: the least cost, where a
    false positive costs ``false_positive`` and a false negative ``false_negative``, in whatever unit.
    """

    rule: Literal["fixed", "top_share", "cost"] = "fixed"
    threshold: float = 0.5
    top_share: float = 0.0
    false_positive: float = 0.0
    false_negative: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError("the threshold is a probability")
        if self.rule == "top_share" and not 0 < self.top_share < 1:
            raise ValueError("a top share is between 0 and 1")
        if self.rule == "cost" and not (self.false_positive > 0 and self.false_negative > 0):
            raise ValueError("both costs are more than 0")

    def as_json(self) -> dict[str, Any]:
        """What was chosen, as the manifest holds it."""
        said: dict[str, Any] = {"rule": self.rule}
        if self.rule == "top_share":
            said["top_share"] = self.top_share
        if self.rule == "cost":
            said |= {"false_positive": self.false_positive, "false_negative": self.false_negative}
        return said


def choose_threshold(rule: ThresholdRule, is_positive: NDArray[np.bool_], probabilities: Array) -> float:
    """The threshold that a rule gives on these rows.

    Args:
        rule: the rule.
        is_positive: shape (rows,).
        probabilities: of the positive class, shape (rows,), made by models that were not fitted on their rows.
    """
    if rule.rule == "fixed":
        return rule.threshold
    if rule.rule == "top_share":
        return float(np.quantile(probabilities, 1 - rule.top_share, method="higher"))
    order = np.argsort(-probabilities, kind="stable")
    ranked, truth = probabilities[order], is_positive[order]
    # With the threshold at the i-th highest probability, the first i + 1 rows count as positive.
    costs = rule.false_positive * np.cumsum(~truth) + rule.false_negative * (truth.sum() - np.cumsum(truth))
    last_of_equals = np.append(ranked[1:] != ranked[:-1], [True])
    costs = np.where(last_of_equals, costs, np.inf)
    best = int(np.argmin(costs))
    nobody = rule.false_negative * truth.sum()
    return 1.0 if nobody < costs[best] else float(ranked[best])


def measure(classes: NDArray[np.intp], probabilities: Array, threshold: float) -> dict[str, float]:
    """AUC (of several classes: the mean over each against the rest), log loss and accuracy.

    Args:
        classes: the position of each row's class, shape (rows,).
        probabilities: shape (rows, classes).
        threshold: of two classes.
    """
    from sklearn.metrics import log_loss, roc_auc_score

    labels = np.arange(probabilities.shape[1])
    if len(labels) == 2:
        auc = roc_auc_score(classes, probabilities[:, 1])
    else:
        auc = np.mean([roc_auc_score(classes == label, probabilities[:, label]) for label in labels])
    return {
        "auc": float(auc),
        "log_loss": float(log_loss(classes, probabilities, labels=labels)),
        "accuracy": float((predicted_class_indices(probabilities, threshold) == classes).mean()),
    }


def leaking_columns(names: Sequence[str], values: Array, classes: NDArray[np.intp], seed: int) -> Mapping[str, float]:
    """The columns that alone give an AUC above 0.99, with it: more likely than not they were not known before the target was.

    A small tree is fitted to one column on half of the rows (at most 10,000) and measured on the others.

    Args:
        names: of the columns.
        values: shape (rows, columns).
        classes: the position of each row's class, shape (rows,).
        seed: of the choice of rows.
    """
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import train_test_split
    from sklearn.tree import DecisionTreeClassifier

    rows = np.arange(len(values))
    if len(rows) > _LEAK_ROWS:
        rows, _ = train_test_split(rows, train_size=_LEAK_ROWS, random_state=seed, stratify=classes)
    fitted, others = train_test_split(rows, test_size=0.5, random_state=seed, stratify=classes[rows])
    found = {}
    for index, name in enumerate(names):
        cells = values[:, [index]]
        tree = DecisionTreeClassifier(max_leaf_nodes=16, min_samples_leaf=2, random_state=seed)
        probabilities = tree.fit(cells[fitted], classes[fitted]).predict_proba(cells[others])
        aucs = [
            roc_auc_score(classes[others] == label, probabilities[:, position])
            for position, label in enumerate(tree.classes_)
            if 0 < (classes[others] == label).sum() < len(others)
        ]
        auc = float(np.mean(aucs))
        if auc > LEAK_AUC:
            found[name] = auc
    return found
