from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB

from serve_app.errors import ComponentsError
from serve_app.scoring.schema import Column
from serve_app.scoring.scorers import LinearBinaryScorer, compile_scorer, predicted_class_indices


def matrix_of(rows: int, features: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, features)) * 3


@given(st.integers(1, 400), st.integers(1, 60), st.integers(0, 2**32 - 1), st.data())
@settings(max_examples=60)
def test_a_rows_probability_is_the_same_to_the_last_bit_whatever_it_is_scored_with(
    rows: int, features: int, seed: int, data: st.DataObject
) -> None:
    matrix = matrix_of(rows, features, seed)
    scorer = LinearBinaryScorer(matrix_of(1, features, seed + 1)[0], 0.25)
    together = scorer.score(matrix)
    cuts = sorted(data.draw(st.lists(st.integers(0, rows), max_size=5)))
    pieces = [scorer.score(np.ascontiguousarray(piece)) for piece in np.split(matrix, cuts)]
    assert np.array_equal(np.concatenate(pieces), together)
    for row in range(min(rows, 20)):
        assert np.array_equal(scorer.score(matrix[row : row + 1])[0], together[row])


@pytest.mark.parametrize("rows", [1, 7, 10_000])
def test_ten_thousand_rows_alone_and_together_are_equal_to_the_last_bit(rows: int) -> None:
    matrix = matrix_of(10_000, 25, seed=1)
    scorer = LinearBinaryScorer(matrix_of(1, 25, seed=2)[0], 0.0)
    pieces = [scorer.score(matrix[start : start + rows]) for start in range(0, len(matrix), rows)]
    assert np.array_equal(np.concatenate(pieces), scorer.score(matrix))


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_the_compiled_scorer_equals_predict_proba(fit_intercept: bool) -> None:
    matrix = matrix_of(500, 6, seed=3)
    labels = (matrix.sum(axis=1) + np.random.default_rng(4).normal(size=500) > 0).astype(int)
    model = LogisticRegression(fit_intercept=fit_intercept).fit(matrix, labels)
    difference = np.abs(compile_scorer(model).score(matrix) - model.predict_proba(matrix)).max()
    assert difference < 1e-14


def test_probabilities_of_a_row_add_up_to_one() -> None:
    probabilities = LinearBinaryScorer(np.ones(3), 0.0).score(matrix_of(100, 3, seed=5) * 100)
    assert probabilities.shape == (100, 2)
    assert np.array_equal(probabilities[:, 0], 1.0 - probabilities[:, 1])


def test_extreme_but_finite_features_give_probabilities_and_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probabilities = LinearBinaryScorer(np.array([1.0, -1.0]), 0.0).score(np.array([[1e300, 0.0], [0.0, 1e300]]))
    assert probabilities[:, 1].tolist() == [1.0, 0.0]


def test_an_estimator_that_cannot_be_compiled_needs_the_raw_columns() -> None:
    matrix = matrix_of(60, 2, seed=6)
    model = GaussianNB().fit(matrix, np.arange(60) % 3)
    with pytest.raises(ComponentsError, match="GaussianNB on 3 classes cannot be served"):
        compile_scorer(model)
    scorer = compile_scorer(model, [Column("a", "numeric"), Column("b", "numeric")])
    assert np.array_equal(scorer.score(matrix), model.predict_proba(matrix))


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_the_compiled_scorer_of_several_classes_equals_predict_proba(fit_intercept: bool) -> None:
    matrix = matrix_of(500, 6, seed=7)
    model = LogisticRegression(fit_intercept=fit_intercept).fit(matrix, matrix[:, :4].argmax(axis=1))
    scorer = compile_scorer(model)
    together = scorer.score(matrix)
    assert np.abs(together - model.predict_proba(matrix)).max() < 1e-14
    assert np.array_equal(np.concatenate([scorer.score(matrix[row : row + 1]) for row in range(100)]), together[:100])


def test_of_two_classes_the_positive_one_is_predicted_from_the_threshold_on() -> None:
    probabilities = np.array([[0.51, 0.49], [0.5, 0.5], [0.3, 0.7]])
    assert predicted_class_indices(probabilities, 0.5).tolist() == [0, 1, 1]
    assert predicted_class_indices(probabilities, 0.6).tolist() == [0, 0, 1]


def test_of_several_classes_the_most_probable_is_predicted() -> None:
    assert predicted_class_indices(np.array([[0.2, 0.5, 0.3], [0.4, 0.3, 0.3]]), 0.5).tolist() == [1, 0]
