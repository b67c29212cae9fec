from __future__ import annotations

import numpy as np
import pytest

from serve_app.training.figures import measure

SHARES = np.array([0.75, 0.25])


def test_figures_of_two_classes_are_those_of_the_positive_one() -> None:
    found = measure(np.array([0, 0, 1, 1]), np.array([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5], [0.2, 0.8]]), 0.55, SHARES)
    assert found.auc == 0.75
    assert found.accuracy == 0.5
    assert found.log_loss == pytest.approx(-np.log([0.9, 0.4, 0.5, 0.8]).mean())


def test_the_auc_of_several_classes_is_the_mean_of_each_against_the_rest() -> None:
    found = measure(np.array([0, 1, 2]), np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2]]), 0.5, np.full(3, 1 / 3))
    assert found.auc == pytest.approx(1.0)
    assert found.accuracy == pytest.approx(2 / 3)
