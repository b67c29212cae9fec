from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from support.drifting import TRAINING

from serve_app.scoring.distribution import Bins, Distribution, describe, scores_of
from serve_app.scoring.schema import Column


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


def test_a_number_has_a_bin_up_to_each_decile_and_one_beyond() -> None:
    values = np.array([[float(cell)] for cell in range(1, 11)] + [[math.nan]] * 10)
    found = describe([Column("n", "numeric")], values, np.full(20, 0.25))
    bins = found.columns["n"]
    assert found.rows == 20
    assert bins.edges == (1, 2, 3, 4, 5, 6, 7, 8, 9)
    assert bins.shares == (*[0.05] * 10, 0.5)
    assert bins.quantiles == pytest.approx((1.45, 3.25, 5.5, 7.75, 9.55))
    assert bins.levels == ()
    assert found.score == Bins((1.0, 0.0, 0.0), edges=(0.25,), quantiles=(0.25,) * 5)  # nothing lies beyond the only edge


def test_a_category_has_a_bin_for_each_level() -> None:
    codes = np.array([[0.0], [2.0], [2.0], [math.nan]])
    column = Column("c", "categorical", levels=("a", "b", "c"))
    assert describe([column], codes, np.zeros(4)).columns == {"c": Bins((0.25, 0.0, 0.5, 0.25), levels=("a", "b", "c"))}


def test_a_number_that_is_always_missing_has_one_edge() -> None:
    found = describe([Column("n", "numeric")], np.full((2, 1), math.nan), np.zeros(2)).columns["n"]
    assert found == Bins((0.0, 0.0, 1.0), edges=(0.0,))
