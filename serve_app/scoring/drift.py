"""How far the scored rows have moved from the rows that trained the model: the population stability index (PSI).

Owns the comparison of a distribution with counts, and its verdicts. Pure: knows no replicas, no clock and no files.

If a bin holds the share e of the training rows and the share a of the scored rows, the index is the sum of (a - e) ln(a / e)
over the bins; shares below 1e-4 are raised to it. By convention a column is stable below 0.1 and has drifted from 0.25 on.
Chance alone gives an index of about (bins - 1) / rows, so few rows say nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

from serve_app.scoring.arrays import Array
from serve_app.scoring.distribution import Bins, Distribution
from serve_app.scoring.drift_counts import Counts

__all__ = ["TOO_FEW_ROWS", "BinsDrift", "Drift", "DriftReport", "Verdict", "compare", "psi"]

Verdict = Literal["stable", "moderate", "drifted", "too few rows"]
TOO_FEW_ROWS: Verdict = "too few rows"

_LEAST_SHARE = 1e-4
_MODERATE, _DRIFTED = 0.1, 0.25
_MAX_BY_CHANCE = 0.05  # if chance alone can give a larger index, there are too few rows for a verdict


class Drift(msgspec.Struct, frozen=True):
    """The index of one column, what it means, and the index that chance alone would give."""

    psi: float
    verdict: Verdict
    by_chance: float


class BinsDrift(Drift, frozen=True):
    """The index of one column with the figures behind it; only numbers have quantiles."""

    missing: float
    missing_in_training: float
    shares: list[float]
    quantiles: list[float] | msgspec.UnsetType = msgspec.UNSET
    quantiles_in_training: list[float] | msgspec.UnsetType = msgspec.UNSET


class DriftReport(msgspec.Struct, frozen=True):
    """The drift of each column and of the score over ``rows`` rows; without rows there are no columns and no score."""

    rows: int
    columns: dict[str, BinsDrift]
    score: BinsDrift | None


def psi(expected: Sequence[float] | Array, actual: Sequence[float] | Array) -> float:
    """The population stability index of two series of shares in the same bins."""
    e, a = (np.maximum(shares, _LEAST_SHARE) for shares in (expected, actual))
    return float(((a - e) * np.log(a / e)).sum())


def compare(distribution: Distribution, counts: Counts) -> DriftReport:
    """The drift of the counted rows from the training rows."""
    if counts.rows == 0:
        return DriftReport(0, {}, None)
    bins = (*distribution.columns.values(), distribution.score)
    *of_columns, of_score = (
        _compare_bins(one, shares, quantiles, counts.rows)
        for one, shares, quantiles in zip(bins, counts.shares(), counts.quantiles(), strict=True)
    )
    return DriftReport(counts.rows, dict(zip(distribution.columns, of_columns, strict=True)), of_score)


def _compare_bins(bins: Bins, shares: Array, quantiles: list[float], rows: int) -> BinsDrift:
    index = psi(bins.shares, shares)
    by_chance = (len(bins.shares) - 1) / rows
    is_number = bool(bins.edges)
    return BinsDrift(
        psi=index,
        verdict=_verdict(index, by_chance),
        by_chance=by_chance,
        missing=float(shares[-1]),
        missing_in_training=bins.shares[-1],
        shares=shares.tolist(),
        quantiles=quantiles if is_number else msgspec.UNSET,
        quantiles_in_training=list(bins.quantiles) if is_number else msgspec.UNSET,
    )


def _verdict(index: float, by_chance: float) -> Verdict:
    if by_chance > _MAX_BY_CHANCE:
        return TOO_FEW_ROWS
    return "stable" if index < _MODERATE else "moderate" if index < _DRIFTED else "drifted"
