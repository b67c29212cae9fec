from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, logit

from serve_app.training.figures import measure
from serve_app.training.verdict import Verdict, judge


def drawn(
    share: float, *, rows: int = 4000, signal: float = 1.0, seed: int = 0
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The classes of rows and the probabilities that they were drawn with, of shape (rows,)."""
    random = np.random.default_rng(seed)
    probabilities = expit(logit(share) + signal * random.normal(size=rows))
    return (random.random(rows) < probabilities).astype(np.intp), probabilities


def verdict(classes: NDArray[np.intp], positive: NDArray[np.float64]) -> Verdict:
    probabilities = np.column_stack([1 - positive, positive])
    shares = np.bincount(classes) / len(classes)
    return judge(measure(classes, probabilities, 0.5, shares), classes, probabilities, shares)


@pytest.mark.parametrize("share", [0.5, 0.06, 0.97])
def test_a_good_model_has_one_sentence_and_no_warning(share: float) -> None:
    found = verdict(*drawn(share))
    assert found.warnings == ()
    assert "better than guessing" in found.sentence
    assert "no sign of being off" in found.sentence


@pytest.mark.parametrize("seed", range(5))
def test_a_model_of_noise_is_no_better_than_the_majority(seed: int) -> None:
    classes, _ = drawn(0.3, rows=400, signal=0, seed=seed)
    noise = expit(logit(0.3) + 0.3 * np.random.default_rng(seed + 100).normal(size=400))
    found = verdict(classes, noise)
    assert "no better than guessing" in found.sentence
    assert any("no better than always answering the class shares" in warning for warning in found.warnings)


def test_probabilities_around_a_half_of_rare_positives_are_too_high() -> None:
    classes, probabilities = drawn(0.06)
    found = verdict(classes, expit(logit(probabilities) - logit(0.06)))
    assert any("too high: on average 49.64%, while 8.97%" in warning for warning in found.warnings)


@pytest.mark.parametrize(("factor", "said"), [(3.0, "too extreme"), (0.3, "too cautious")])
def test_probabilities_that_are_right_on_average_may_still_be_off(factor: float, said: str) -> None:
    classes, probabilities = drawn(0.5, signal=1.5)
    found = verdict(classes, expit(factor * logit(probabilities)))
    assert any(f"The probabilities are {said}" in warning for warning in found.warnings)


def test_of_several_classes_the_predicted_one_is_judged() -> None:
    random = np.random.default_rng(1)
    scores = random.normal(size=(3000, 3))
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    classes = (random.random((3000, 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
    shares = np.full(3, 1 / 3)
    assert judge(measure(classes, probabilities, 0.5, shares), classes, probabilities, shares).warnings == ()
    sure = np.exp(4 * scores) / np.exp(4 * scores).sum(axis=1, keepdims=True)
    found = judge(measure(classes, sure, 0.5, shares), classes, sure, shares)
    assert any("of the predicted class" in warning for warning in found.warnings)
