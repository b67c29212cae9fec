"""Rows of three columns with scores, and their distribution: what the tests of drift have in common."""

from __future__ import annotations

import math

import numpy as np

from serve_app.scoring.distribution import Distribution, describe
from serve_app.scoring.drift_counts import Counts
from serve_app.scoring.schema import Column

__all__ = ["COLUMNS", "TRAINING", "counted", "drift_rows"]

COLUMNS = (Column("n", "numeric"), Column("c", "categorical", levels=("a", "b", "c")), Column("b", "boolean"))


def drift_rows(count: int, seed: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Values of shape (count, 3) and scores; ``shift`` moves the number and the boolean."""
    random = np.random.default_rng(seed)
    values = np.column_stack(
        [
            random.normal(shift, 1, count),
            random.choice([0.0, 1.0, 2.0, math.nan], count, p=[0.5, 0.3, 0.15, 0.05]),
            (random.random(count) < 0.3 + shift / 3).astype(float),
        ]
    )
    values[random.random(count) < 0.1, 0] = math.nan
    return values, random.beta(2, 5, count)


TRAINING: Distribution = describe(COLUMNS, *drift_rows(20_000, 0))


def counted(distribution: Distribution, *parts: tuple[np.ndarray, np.ndarray]) -> Counts:
    """What was counted of several parts."""
    counts = Counts(distribution)
    for values, scores in parts:
        counts.update(values, scores)
    return counts
