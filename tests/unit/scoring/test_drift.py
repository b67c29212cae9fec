from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from support.drifting import COLUMNS, TRAINING, counted, drift_rows

from serve_app.scoring.distribution import Bins, Distribution, describe
from serve_app.scoring.drift import BinsDrift, _verdict, compare, psi
from serve_app.scoring.drift_counts import Counts


def test_the_index_of_known_shares_is_that_of_the_formula() -> None:
    expected = (0.2 - 0.5) * math.log(0.2 / 0.5) + (0.8 - 0.5) * math.log(0.8 / 0.5)
    assert psi([0.5, 0.5], [0.2, 0.8]) == pytest.approx(expected)
    assert psi([0.3, 0.7], [0.3, 0.7]) == 0


def test_an_empty_bin_does_not_make_the_index_endless() -> None:
    assert psi([0.5, 0.5, 0.0], [0.5, 0.4, 0.1]) == pytest.approx(
        0.1 * math.log(0.4 / 0.5) * -1 + 0.0999 * math.log(1000), abs=1e-3
    )


def test_rows_like_the_training_rows_are_stable_and_others_are_not() -> None:
    found = compare(TRAINING, counted(TRAINING, drift_rows(20_000, 1)))
    assert {column.verdict for column in found.columns.values()} == {"stable"}
    assert found.score
    assert found.score.psi < 0.01
    shifted = compare(TRAINING, counted(TRAINING, drift_rows(20_000, 1, shift=1.0)))
    assert shifted.columns["n"].verdict == "drifted"
    assert shifted.columns["b"].verdict == "drifted"
    assert shifted.columns["c"].verdict == "stable"
    assert shifted.columns["n"].quantiles
    assert shifted.columns["n"].quantiles[2] == pytest.approx(1, abs=0.1)


def test_the_sketched_index_is_that_of_all_numbers() -> None:
    values, scores = drift_rows(50_000, 2, shift=0.7)
    exact = describe(COLUMNS, values, scores)
    cells = values[:, 0][~np.isnan(values[:, 0])]
    bins = TRAINING.columns["n"]
    shares = np.bincount(np.searchsorted(bins.edges, cells), minlength=10) / len(values)
    found = compare(TRAINING, counted(TRAINING, (values, scores))).columns["n"]
    assert found.psi == pytest.approx(psi(bins.shares, [*shares, exact.columns["n"].shares[-1]]), abs=0.02)
    assert found.missing == pytest.approx(exact.columns["n"].shares[-1])


def test_few_rows_tell_nothing() -> None:
    found = compare(TRAINING, counted(TRAINING, drift_rows(40, 3)))
    assert found.columns["n"].verdict == "too few rows"
    assert found.columns["n"].by_chance == pytest.approx(10 / 40)


def test_without_rows_there_is_nothing_to_compare() -> None:
    assert msgspec.to_builtins(compare(TRAINING, Counts(TRAINING))) == {"rows": 0, "columns": {}, "score": None}


def test_a_column_that_was_all_missing_in_training_can_be_compared() -> None:
    empty = np.full((500, 1), math.nan)
    distribution = describe(COLUMNS[:1], empty, np.linspace(0, 1, 500))
    assert compare(distribution, counted(distribution, (empty, np.linspace(0, 1, 500)))).columns["n"].psi == 0
    full = compare(distribution, counted(distribution, (np.zeros((500, 1)), np.linspace(0, 1, 500))))
    assert full.columns["n"].verdict == "drifted"


def test_a_report_has_the_figures_of_each_column() -> None:
    number = Bins((0.25, 0.5, 0.25), edges=(1.0,), quantiles=(0.0, 0.5, 1.0, 1.5, 2.0))
    category = Bins((0.5, 0.25, 0.25), levels=("a", "b"))
    distribution = Distribution(8, {"n": number, "c": category}, Bins((0.5, 0.5, 0.0), edges=(0.5,), quantiles=(0.5,) * 5))
    counts = Counts(distribution)
    values = np.array([[1.0, 0.0], [2.0, 1.0], [2.0, 1.0], [math.nan, math.nan]] * 25)
    counts.update(values, np.array([0.25, 0.75, 0.75, 0.75] * 25))
    report = compare(distribution, counts)
    assert report.rows == 100
    assert report.columns["n"] == BinsDrift(
        psi=0.0,
        verdict="stable",
        by_chance=0.02,
        missing=0.25,
        missing_in_training=0.25,
        shares=[0.25, 0.5, 0.25],
        quantiles=[1.0, 1.0, 2.0, 2.0, 2.0],
        quantiles_in_training=[0.0, 0.5, 1.0, 1.5, 2.0],
    )
    assert msgspec.to_builtins(report.columns["c"]) == {
        "psi": pytest.approx(0.5 * math.log(2)),
        "verdict": "drifted",
        "by_chance": 0.02,
        "missing": 0.25,
        "missing_in_training": 0.25,
        "shares": [0.25, 0.5, 0.25],
    }
    assert report.score
    assert report.score.shares == [0.25, 0.75, 0.0]


@pytest.mark.parametrize(
    ("index", "by_chance", "verdict"),
    [
        (0.0999, 0.05, "stable"),
        (0.1, 0.05, "moderate"),
        (0.2499, 0.0, "moderate"),
        (0.25, 0.0, "drifted"),
        (9.0, 0.0501, "too few rows"),
    ],
)
def test_a_verdict_begins_at_its_bound(index: float, by_chance: float, verdict: str) -> None:
    assert _verdict(index, by_chance) == verdict
