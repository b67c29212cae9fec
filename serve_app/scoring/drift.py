"""How far the rows that are scored have moved from those that trained the model: the population stability index (PSI).

Owns what is remembered of the training rows, what is counted of those scored, and the comparison of the two. Pure: knows no
replica, no clock and no file.

A number's bins are between the deciles of the training rows, a category's are its levels, and a missing value has a bin of its
own. With the share e of the training rows in a bin and the share a of those scored, the index is the sum of (a - e) ln(a / e);
a share counts as a ten-thousandth at least. Below 0.1 is customarily called stable, from 0.25 on drifted. Chance alone makes it
about (bins - 1) / rows, so that few rows tell nothing.

Numbers are kept as KLL sketches (Karnin, Lang and Liberty 2016), which merge: what many replicas saw is one sketch, of a few
kilobytes, whose shares are right to about one percent of the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import msgspec
import numpy as np

from serve_app.scoring.arrays import Array
from serve_app.scoring.schema import Column

__all__ = ["QUANTILES", "TOO_FEW_ROWS", "Bins", "Counts", "Distribution", "compare", "describe", "psi", "scores_of"]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_DECILES = np.arange(1, 10) / 10
_LEAST_SHARE = 1e-4
_CHANCE = 0.05  # what chance alone may make of the index; with more of it rows are too few
_SKETCH_SIZE = 350  # a rank is right to about 0.8 percent
TOO_FEW_ROWS = "too few rows"
"""The verdict where chance alone may make that much of the index."""
_MODERATE, _DRIFTED = 0.1, 0.25


class Bins(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The shares of the training rows in the bins of one column.

    A number's bins are up to and with each of ``edges`` and beyond the last; a category's are its ``levels``. The last of
    ``shares`` is that of missing values. ``quantiles`` are those at 5, 25, 50, 75 and 95 percent.
    """

    shares: tuple[float, ...]
    edges: tuple[float, ...] = ()
    levels: tuple[str, ...] = ()
    quantiles: tuple[float, ...] = ()


class Distribution(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The training rows: of each column that the model uses, in the order of the values array, and of the score.

    The score is the probability of the positive class; of three or more classes, that of the predicted one.
    """

    rows: int
    columns: dict[str, Bins]
    score: Bins


class _State(msgspec.Struct, frozen=True):
    rows: int
    sketches: dict[int, bytes]
    counts: dict[int, list[int]]


class Counts:
    """What was seen of rows that were scored, by column; the score is the last column.

    Args:
        distribution: of the model that scored them.
    """

    def __init__(self, distribution: Distribution) -> None:
        self._bins = [*distribution.columns.values(), distribution.score]
        self._sketches = {index: _new_sketch() for index, bins in enumerate(self._bins) if not bins.levels}
        self._counts = {
            index: np.zeros(len(bins.shares), dtype=np.int64) for index, bins in enumerate(self._bins) if bins.levels
        }
        self.rows = 0

    def update(self, values: Array, scores: Array) -> None:
        """Counts rows: values of shape (rows, columns), scores of shape (rows,)."""
        self.rows += len(values)
        for index, sketch in self._sketches.items():
            cells = scores if index == len(self._bins) - 1 else values[:, index]
            known = cells[~np.isnan(cells)]
            if len(known):
                sketch.update(known)
        for index, bins in enumerate(self._bins):
            if bins.levels:
                codes = np.where(np.isnan(values[:, index]), len(bins.levels), values[:, index]).astype(np.intp)
                self._counts[index] += np.bincount(codes, minlength=len(bins.shares))

    def merge(self, other: Counts) -> None:
        """Adds what another has counted by the same distribution."""
        self.rows += other.rows
        for index, sketch in self._sketches.items():
            sketch.merge(other._sketches[index])
        for index, counts in other._counts.items():
            self._counts[index] += counts

    def to_bytes(self) -> bytes:
        """All of it, to be sent to another process."""
        sketches = {index: sketch.serialize() for index, sketch in self._sketches.items()}
        return msgspec.msgpack.encode(_State(self.rows, sketches, {i: c.tolist() for i, c in self._counts.items()}))

    @classmethod
    def from_bytes(cls, distribution: Distribution, content: bytes) -> Self:
        """What ``to_bytes`` made of counts by the same distribution."""
        from datasketches import kll_doubles_sketch

        state = msgspec.msgpack.decode(content, type=_State)
        counts = cls(distribution)
        counts.rows = state.rows
        counts._sketches = {index: kll_doubles_sketch.deserialize(sketch) for index, sketch in state.sketches.items()}
        counts._counts = {index: np.array(found, dtype=np.int64) for index, found in state.counts.items()}
        return counts

    def shares(self) -> Iterable[Array]:
        """Of each column and of the score: the share of the rows in each bin. There must be rows."""
        for index, bins in enumerate(self._bins):
            if bins.levels:
                yield self._counts[index] / self.rows
            else:
                yield _sketched_shares(self._sketches[index], bins, self.rows)

    def quantiles(self) -> Iterable[list[float]]:
        """Of each column and of the score: the quantiles as in ``Bins``; nothing of categories, nor where all is missing."""
        for index in range(len(self._bins)):
            sketch = self._sketches.get(index)
            yield [] if sketch is None or sketch.is_empty() else [float(sketch.get_quantile(rank)) for rank in QUANTILES]


def describe(columns: Sequence[Column], values: Array, scores: Array) -> Distribution:
    """The distribution of rows: values of shape (rows, columns), scores of shape (rows,)."""
    described = {
        column.name: _describe_levels(column, values[:, index])
        if column.is_categorical
        else _describe_numbers(values[:, index])
        for index, column in enumerate(columns)
    }
    return Distribution(len(values), described, _describe_numbers(scores))


def scores_of(probabilities: Array) -> Array:
    """What is watched as the score, shape (rows,), of probabilities of shape (rows, classes)."""
    return probabilities[:, 1] if probabilities.shape[1] == 2 else probabilities.max(axis=1)


def psi(expected: Sequence[float] | Array, actual: Sequence[float] | Array) -> float:
    """The population stability index of shares in the same bins."""
    e, a = (np.maximum(np.asarray(shares, dtype=np.float64), _LEAST_SHARE) for shares in (expected, actual))
    return float(((a - e) * np.log(a / e)).sum())


def compare(distribution: Distribution, counts: Counts) -> dict[str, Any]:
    """The index of each column and of the score, with the shares that it is made of, as values of JSON."""
    if counts.rows == 0:
        return {"rows": 0, "columns": {}, "score": None}
    bins = {**distribution.columns, "": distribution.score}  # the score's name is never shown
    found = [
        _compare_bins(one, shares, quantiles, counts.rows)
        for one, shares, quantiles in zip(bins.values(), counts.shares(), counts.quantiles(), strict=True)
    ]
    return {
        "rows": counts.rows,
        "columns": dict(zip(distribution.columns, found[:-1], strict=True)),
        "score": found[-1],
    }


def _compare_bins(bins: Bins, shares: Array, quantiles: Sequence[float], rows: int) -> Mapping[str, Any]:
    index = psi(bins.shares, shares)
    chance = (len(bins.shares) - 1) / rows
    if chance > _CHANCE:
        verdict = TOO_FEW_ROWS
    else:
        verdict = "stable" if index < _MODERATE else "moderate" if index < _DRIFTED else "drifted"
    said = {"psi": index, "verdict": verdict, "by_chance": chance, "missing": float(shares[-1])}
    return {**said, "missing_in_training": bins.shares[-1], "shares": shares.tolist()} | (
        {"quantiles": list(quantiles), "quantiles_in_training": list(bins.quantiles)} if bins.edges else {}
    )


def _describe_numbers(cells: Array) -> Bins:
    known = cells[~np.isnan(cells)]
    if not len(known):
        return Bins(shares=(0.0, 0.0, 1.0), edges=(0.0,))
    edges = np.unique(np.quantile(known, _DECILES, method="inverted_cdf"))
    counts = np.bincount(np.searchsorted(edges, known, side="left"), minlength=len(edges) + 1)
    shares = [*(counts / len(cells)).tolist(), 1 - len(known) / len(cells)]
    return Bins(tuple(shares), edges=tuple(edges.tolist()), quantiles=tuple(np.quantile(known, QUANTILES).tolist()))


def _describe_levels(column: Column, codes: Array) -> Bins:
    places = np.where(np.isnan(codes), len(column.levels), codes).astype(np.intp)
    shares = np.bincount(places, minlength=len(column.levels) + 1) / len(codes)
    return Bins(tuple(shares.tolist()), levels=column.levels)


def _sketched_shares(sketch: Any, bins: Bins, rows: int) -> Array:
    if sketch.is_empty():
        return np.append(np.zeros(len(bins.shares) - 1), 1.0)
    known = sketch.n / rows
    return np.append(np.asarray(sketch.get_pmf(list(bins.edges), True)) * known, 1 - known)  # noqa: FBT003 - inclusive


def _new_sketch() -> Any:
    from datasketches import kll_doubles_sketch

    return kll_doubles_sketch(_SKETCH_SIZE)
