"""From which probability on a row of two classes counts as positive: the rules, and the threshold that each one gives.

Pure: knows no model, no table and no file.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from serve_app.scoring.arrays import Array

__all__ = ["ThresholdRule", "choose_threshold"]


class ThresholdRule(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """How the threshold of two classes is chosen.

    - ``fixed``: it is ``threshold``.
    - ``top_share``: this share of the rows counts as positive.
    - ``cost``: the lowest total cost, where each false positive costs ``false_positive`` and each false negative
      ``false_negative``. Only their ratio matters.

    Raises:
        ValueError: a figure is missing or out of range.
    """

    rule: Literal["fixed", "top_share", "cost"] = "fixed"
    threshold: float = 0.5
    top_share: float = 0.0
    false_positive: float = 0.0
    false_negative: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError("the threshold must be between 0 and 1")
        if self.rule == "top_share" and not 0 < self.top_share < 1:
            raise ValueError("the top share must be greater than 0 and less than 1")
        if self.rule == "cost" and not (self.false_positive > 0 and self.false_negative > 0):
            raise ValueError("both costs must be greater than 0")

    def as_json(self) -> dict[str, str | float]:
        """The rule and its own figures, as the manifest holds them."""
        said: dict[str, str | float] = {"rule": self.rule}
        if self.rule == "top_share":
            said["top_share"] = self.top_share
        if self.rule == "cost":
            said |= {"false_positive": self.false_positive, "false_negative": self.false_negative}
        return said


def choose_threshold(rule: ThresholdRule, is_positive: NDArray[np.bool_], probabilities: Array) -> float:
    """The threshold that a rule gives for some rows.

    Args:
        rule: the rule.
        is_positive: shape (rows,).
        probabilities: of the positive class, shape (rows,), from models that were not fitted to the row in question.
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
    cost_of_none_positive = rule.false_negative * truth.sum()
    return 1.0 if cost_of_none_positive < costs[best] else float(ranked[best])
