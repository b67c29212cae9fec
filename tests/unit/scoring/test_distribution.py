from __future__ import annotations

import msgspec
import numpy as np
import pytest
from support.drifting import TRAINING

from serve_app.scoring.distribution import Distribution, scores_of


def test_the_shares_of_the_training_rows_add_up_with_that_of_the_missing_last() -> None:
    for bins in (*TRAINING.columns.values(), TRAINING.score):
        assert sum(bins.shares) == pytest.approx(1)
    assert TRAINING.columns["n"].shares[-1] == pytest.approx(0.1, abs=0.01)
    assert TRAINING.columns["n"].shares[:-1] == pytest.approx([0.09] * 10, abs=0.005)
    assert TRAINING.columns["c"].shares == pytest.approx((0.5, 0.3, 0.15, 0.05), abs=0.02)
    assert TRAINING.columns["n"].quantiles[2] == pytest.approx(0, abs=0.05)


def test_a_distribution_survives_json() -> None:
    assert msgspec.json.decode(msgspec.json.encode(TRAINING), type=Distribution) == TRAINING


def test_the_score_is_the_positive_class_or_the_predicted_one() -> None:
    assert scores_of(np.array([[0.3, 0.7], [0.9, 0.1]])).tolist() == [0.7, 0.1]
    assert scores_of(np.array([[0.3, 0.2, 0.5]])).tolist() == [0.5]
