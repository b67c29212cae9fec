from __future__ import annotations

import numpy as np
import pytest
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import StandardScaler

from serve_app.scoring.features import FeatureEncoder, NumericFit
from serve_app.scoring.schema import MISSING, Column, Feature

NAN = float("nan")
COLUMNS = [Column("c", "categorical", levels=("x", "y", "z")), Column("a", "numeric"), Column("b", "numeric")]
FEATURES = [Feature("c", "z"), Feature("b"), Feature("c", "y"), Feature("a")]
FITS = {"a": NumericFit(imputed=1.0, mean=2.0, scale=4.0), "b": NumericFit(imputed=0.5, mean=0.25, scale=0.5)}
ENCODER = FeatureEncoder(COLUMNS, FEATURES, FITS)


def test_numbers_are_imputed_and_standardised_and_levels_become_ones_in_the_models_order() -> None:
    values = np.array([[2.0, 6.0, 0.25], [1.0, NAN, NAN], [0.0, 2.0, 0.75]])
    assert ENCODER.encode(values).tolist() == [[1.0, 0.0, 0.0, 1.0], [0.0, 0.5, 1.0, -0.25], [0.0, 1.0, 0.0, 0.0]]


def test_a_missing_category_counts_as_the_baseline() -> None:
    missing, baseline = ENCODER.encode(np.array([[NAN, 1.0, 1.0], [0.0, 1.0, 1.0]]))
    assert missing.tolist() == baseline.tolist()


def test_a_missing_value_may_be_a_level_of_its_own() -> None:
    features = [Feature("c", "x"), Feature("c", MISSING), Feature("a"), Feature("a", MISSING)]
    found = FeatureEncoder(COLUMNS, features, FITS).encode(np.array([[0.0, 6.0, 0.0], [NAN, NAN, 0.0]]))
    assert found.tolist() == [[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, -0.25, 1.0]]
    assert [feature.name for feature in features] == ["c_x", "c (missing)", "a", "a (missing)"]


def test_the_values_that_were_given_are_left_alone() -> None:
    values = np.array([[NAN, NAN, NAN]])
    ENCODER.encode(values)
    assert np.isnan(values).all()


def test_a_rows_features_do_not_depend_on_its_neighbours() -> None:
    random = np.random.default_rng(1)
    values = np.column_stack([random.integers(0, 3, 500), random.normal(size=500), random.normal(size=500)]).astype(float)
    values[random.random(values.shape) < 0.1] = NAN
    together = ENCODER.encode(values)
    assert all(np.array_equal(ENCODER.encode(values[row : row + 1])[0], together[row]) for row in range(500))
    assert together.flags.c_contiguous


def test_no_rows_give_a_matrix_without_rows() -> None:
    assert ENCODER.encode(np.empty((0, 3))).shape == (0, 4)


def test_the_encoder_equals_scikit_learns_imputer_and_scaler() -> None:
    values = np.random.default_rng(2).normal(size=(300, 2)) * [3.0, 0.01] + [100.0, -5.0]
    values[::7, 0] = NAN
    imputer = SimpleImputer().fit(values)
    scaler = StandardScaler().fit(imputer.transform(values))
    fits = {
        name: NumericFit(imputed=imputer.statistics_[index], mean=scaler.mean_[index], scale=scaler.scale_[index])
        for index, name in enumerate("ab")
    }
    encoder = FeatureEncoder(COLUMNS[1:], [Feature("a"), Feature("b")], fits)
    assert np.array_equal(encoder.encode(values), scaler.transform(imputer.transform(values)))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_largest_number_stays_finite_when_it_is_standardised(scale: float) -> None:
    encoder = FeatureEncoder(COLUMNS[1:2], [Feature("a")], {"a": NumericFit(imputed=0.0, mean=1.0, scale=scale)})
    largest = encoder.max_magnitude
    assert np.isfinite(encoder.encode(np.array([[largest], [-largest]]))).all()


def test_a_model_may_have_levels_alone_or_numbers_alone() -> None:
    levels = FeatureEncoder(COLUMNS[:1], [Feature("c", "y")], {})
    assert levels.encode(np.array([[1.0], [2.0]])).tolist() == [[1.0], [0.0]]
    assert levels.max_magnitude == 1e300
    numbers = FeatureEncoder(COLUMNS[1:2], [Feature("a")], FITS)
    assert numbers.encode(np.array([[6.0]])).tolist() == [[1.0]]
