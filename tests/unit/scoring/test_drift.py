from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.scoring.drift import Counts, Distribution, compare, describe, psi, scores_of
from serve_app.scoring.schema import Column

COLUMNS = (Column("n", "numeric"), Column("c", "categorical", levels=("a", "b", "c")), Column("b", "boolean"))


def rows(count: int, seed: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
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


@pytest.fixture(scope="module")
def training() -> Distribution:
    return describe(COLUMNS, *rows(20_000, 0))


def counted(distribution: Distribution, *parts: tuple[np.ndarray, np.ndarray]) -> Counts:
    counts = Counts(distribution)
    for values, scores in parts:
        counts.update(values, scores)
    return counts


def test_the_index_of_known_shares_is_that_of_the_formula() -> None:
    expected = (0.2 - 0.5) * math.log(0.2 / 0.5) + (0.8 - 0.5) * math.log(0.8 / 0.5)
    assert psi([0.5, 0.5], [0.2, 0.8]) == pytest.approx(expected)
    assert psi([0.3, 0.7], [0.3, 0.7]) == 0


def test_an_empty_bin_does_not_make_the_index_endless() -> None:
    assert psi([0.5, 0.5, 0.0], [0.5, 0.4, 0.1]) == pytest.approx(
        0.1 * math.log(0.4 / 0.5) * -1 + 0.0999 * math.log(1000), abs=1e-3
    )


def test_the_shares_of_the_training_rows_add_up_with_that_of_the_missing_last(training: Distribution) -> None:
    for bins in (*training.columns.values(), training.score):
        assert sum(bins.shares) == pytest.approx(1)
    assert training.columns["n"].shares[-1] == pytest.approx(0.1, abs=0.01)
    assert training.columns["n"].shares[:-1] == pytest.approx([0.09] * 10, abs=0.005)
    assert training.columns["c"].shares == pytest.approx((0.5, 0.3, 0.15, 0.05), abs=0.02)
    assert training.columns["n"].quantiles[2] == pytest.approx(0, abs=0.05)


def test_rows_like_the_training_rows_are_stable_and_others_are_not(training: Distribution) -> None:
    found = compare(training, counted(training, rows(20_000, 1)))
    assert {column["verdict"] for column in found["columns"].values()} == {"stable"}
    assert found["score"]["psi"] < 0.01
    shifted = compare(training, counted(training, rows(20_000, 1, shift=1.0)))
    assert shifted["columns"]["n"]["verdict"] == "drifted"
    assert shifted["columns"]["b"]["verdict"] == "drifted"
    assert shifted["columns"]["c"]["verdict"] == "stable"
    assert shifted["columns"]["n"]["quantiles"][2] == pytest.approx(1, abs=0.1)


def test_the_sketched_index_is_that_of_all_numbers(training: Distribution) -> None:
    values, scores = rows(50_000, 2, shift=0.7)
    exact = describe(COLUMNS, values, scores)
    cells = values[:, 0][~np.isnan(values[:, 0])]
    bins = training.columns["n"]
    shares = np.bincount(np.searchsorted(bins.edges, cells), minlength=10) / len(values)
    found = compare(training, counted(training, (values, scores)))["columns"]["n"]
    assert found["psi"] == pytest.approx(psi(bins.shares, [*shares, exact.columns["n"].shares[-1]]), abs=0.02)
    assert found["missing"] == pytest.approx(exact.columns["n"].shares[-1])


def test_few_rows_tell_nothing(training: Distribution) -> None:
    found = compare(training, counted(training, rows(40, 3)))
    assert found["columns"]["n"]["verdict"] == "too few rows"
    assert found["columns"]["n"]["by_chance"] == pytest.approx(10 / 40)


def test_without_rows_there_is_nothing_to_compare(training: Distribution) -> None:
    assert compare(training, Counts(training)) == {"rows": 0, "columns": {}, "score": None}


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=5))
@settings(max_examples=15)
def test_what_replicas_counted_merges_into_what_one_would_have(training: Distribution, sizes: list[int]) -> None:
    parts = [rows(size, seed) for seed, size in enumerate(sizes)]
    merged = Counts(training)
    for part in parts:
        merged.merge(Counts.from_bytes(training, counted(training, part).to_bytes()))
    together = counted(training, *parts)
    assert merged.rows == together.rows == sum(sizes)
    for ours, theirs in zip(merged.shares(), together.shares(), strict=True):
        assert ours == pytest.approx(theirs, abs=0.025)


def test_a_column_that_was_all_missing_in_training_can_be_compared() -> None:
    empty = np.full((500, 1), math.nan)
    distribution = describe(COLUMNS[:1], empty, np.linspace(0, 1, 500))
    assert compare(distribution, counted(distribution, (empty, np.linspace(0, 1, 500))))["columns"]["n"]["psi"] == 0
    full = compare(distribution, counted(distribution, (np.zeros((500, 1)), np.linspace(0, 1, 500))))
    assert full["columns"]["n"]["verdict"] == "drifted"


def test_a_distribution_survives_json(training: Distribution) -> None:
    assert msgspec.json.decode(msgspec.json.encode(training), type=Distribution) == training


def test_the_score_is_the_positive_class_or_the_predicted_one() -> None:
    assert scores_of(np.array([[0.3, 0.7], [0.9, 0.1]])).tolist() == [0.7, 0.1]
    assert scores_of(np.array([[0.3, 0.2, 0.5]])).tolist() == [0.5]
