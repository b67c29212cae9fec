from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from serve_app.training.leaks import _area_under_curve, leaking_columns


def test_a_column_that_knows_the_target_is_found_and_a_good_one_is_not() -> None:
    random = np.random.default_rng(3)
    classes = random.integers(0, 3, 900)
    values = np.column_stack(
        [
            (classes + 1) % 3 * 10 + random.normal(0, 0.1, 900),  # in another order than the classes
            np.where(random.random(900) < 0.2, np.nan, classes + random.normal(0, 0.7, 900)),
            np.full(900, np.nan),
        ]
    )
    found = leaking_columns(["leak", "good", "empty"], values, classes, seed=1)
    assert list(found) == ["leak"]
    assert found["leak"] > 0.99


def test_the_auc_by_ranks_is_scikit_learns() -> None:
    is_positive, scores = np.random.default_rng(0).random(500) < 0.2, np.random.default_rng(1).random(500).round(1)
    assert _area_under_curve(is_positive, scores) == pytest.approx(roc_auc_score(is_positive, scores), abs=1e-12)
