from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.training.threshold import ThresholdRule, choose_threshold


def scored(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    probabilities = random.beta(2, 3, rows).round(2)  # rounded: with equals among them
    return random.random(rows) < probabilities, probabilities


def test_a_fixed_threshold_stays_what_it_is() -> None:
    assert choose_threshold(ThresholdRule(threshold=0.3), *scored(50, 0)) == 0.3


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_a_top_share_is_about_that_share_of_the_rows(share: float) -> None:
    is_positive, probabilities = scored(1000, 1)
    probabilities = probabilities + np.random.default_rng(2).random(1000) * 1e-6
    threshold = choose_threshold(ThresholdRule("top_share", top_share=share), is_positive, probabilities)
    assert (probabilities >= threshold).mean() == pytest.approx(share, abs=0.002)


@given(st.integers(2, 80), st.integers(0, 1000), st.floats(0.1, 10), st.floats(0.1, 10))
@settings(max_examples=80)
def test_no_other_threshold_costs_less(rows: int, seed: int, false_positive: float, false_negative: float) -> None:
    is_positive, probabilities = scored(rows, seed)
    rule = ThresholdRule("cost", false_positive=false_positive, false_negative=false_negative)

    def cost(threshold: float) -> float:
        said = probabilities >= threshold
        return float(false_positive * (said & ~is_positive).sum() + false_negative * (~said & is_positive).sum())

    chosen = cost(choose_threshold(rule, is_positive, probabilities))
    assert chosen <= min(cost(threshold) for threshold in [*probabilities, 1.0]) + 1e-9


@pytest.mark.parametrize(
    "rule",
    [
        {"threshold": 1.5},
        {"rule": "top_share"},
        {"rule": "top_share", "top_share": 1.0},
        {"rule": "cost", "false_positive": 1.0},
    ],
)
def test_a_rule_that_cannot_be_is_refused(rule: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"threshold|share|cost"):
        ThresholdRule(**rule)  # type: ignore[arg-type]
