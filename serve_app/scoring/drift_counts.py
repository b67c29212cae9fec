"""What a service counts of the rows that it scores, in the bins of the training rows.

Owns the counts, how those of several replicas are merged, and their form between processes. Pure: knows no replicas, no clock
and no files.

Numbers are counted in KLL sketches (Karnin, Lang and Liberty 2016). They can be merged, so what many replicas saw is one sketch
of a few kilobytes, whose shares are accurate to about one percent of the rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import msgspec
import numpy as np

from serve_app.scoring.arrays import Array
from serve_app.scoring.distribution import QUANTILES, Bins, Distribution, count_levels

__all__ = ["Counts"]

_SKETCH_SIZE = 350  # ranks are accurate to about 0.8 percent


class Counts:
    """Counts scored rows by column and bin; the score is counted like a last column.

    Args:
        distribution: of the model that scored the rows.
    """

    def __init__(self, distribution: Distribution) -> None:
        self._counts = [_count_by(bins) for bins in (*distribution.columns.values(), distribution.score)]
        self.rows = 0

    def update(self, values: Array, scores: Array) -> None:
        """Counts rows: values of shape (rows, columns), scores of shape (rows,)."""
        self.rows += len(values)
        *of_columns, of_score = self._counts
        for index, counts in enumerate(of_columns):
            counts.update(values[:, index])
        of_score.update(scores)

    def merge(self, other: Counts) -> None:
        """Adds what ``other``, of the same distribution, has counted."""
        self.rows += other.rows
        for ours, theirs in zip(self._counts, other._counts, strict=True):
            ours.merge(theirs)

    def to_bytes(self) -> bytes:
        """The counts for another process."""
        sketches = {index: counts.state() for index, counts in enumerate(self._counts) if isinstance(counts, _NumberCounts)}
        levels = {index: counts.state() for index, counts in enumerate(self._counts) if isinstance(counts, _LevelCounts)}
        return msgspec.msgpack.encode(_State(self.rows, sketches, levels))

    @classmethod
    def from_bytes(cls, distribution: Distribution, content: bytes) -> Self:
        """The counts that ``to_bytes`` wrote, of the same distribution."""
        state = msgspec.msgpack.decode(content, type=_State)
        counts = cls(distribution)
        counts.rows = state.rows
        for index, one in enumerate(counts._counts):
            if isinstance(one, _NumberCounts):
                one.restore(state.sketches[index])
            else:
                one.restore(state.counts[index])
        return counts

    def shares(self) -> Iterator[Array]:
        """The share of the rows in each bin, for each column and the score. There must be rows."""
        for counts in self._counts:
            yield counts.shares(self.rows)

    def quantiles(self) -> Iterator[list[float]]:
        """The quantiles at the ranks ``QUANTILES``, for each column and the score; none for categories or without values."""
        for counts in self._counts:
            yield counts.quantiles()


class _State(msgspec.Struct, frozen=True):
    """Counts on their way to another process; the keys are positions of columns."""

    rows: int
    sketches: dict[int, bytes]
    counts: dict[int, list[int]]


def _count_by(bins: Bins) -> _NumberCounts | _LevelCounts:
    return _LevelCounts(bins) if bins.levels else _NumberCounts(bins)


class _NumberCounts:
    """The numbers of one column, in a sketch that its bins are cut from when they are asked for."""

    def __init__(self, bins: Bins) -> None:
        from datasketches import kll_doubles_sketch

        self._bins = bins
        self._sketch: Any = kll_doubles_sketch(_SKETCH_SIZE)  # the package has no types

    def update(self, cells: Array) -> None:
        known = cells[~np.isnan(cells)]
        if len(known):
            self._sketch.update(known)

    def merge(self, other: Any) -> None:
        self._sketch.merge(other._sketch)  # noqa: SLF001 - of the same class

    def shares(self, rows: int) -> Array:
        if self._sketch.is_empty():
            return np.append(np.zeros(len(self._bins.shares) - 1), 1.0)
        known = self._sketch.n / rows
        of_known = np.asarray(self._sketch.get_pmf(list(self._bins.edges), True))  # noqa: FBT003 - edges are inclusive
        return np.append(of_known * known, 1 - known)

    def quantiles(self) -> list[float]:
        return [] if self._sketch.is_empty() else [float(self._sketch.get_quantile(rank)) for rank in QUANTILES]

    def state(self) -> bytes:
        return bytes(self._sketch.serialize())

    def restore(self, state: bytes) -> None:
        self._sketch = type(self._sketch).deserialize(state)


class _LevelCounts:
    """The cells of one categorical column, by level."""

    def __init__(self, bins: Bins) -> None:
        self._levels = len(bins.levels)
        self._counts = np.zeros(len(bins.shares), dtype=np.int64)

    def update(self, codes: Array) -> None:
        self._counts += count_levels(codes, self._levels)

    def merge(self, other: Any) -> None:
        self._counts += other._counts  # noqa: SLF001 - of the same class

    def shares(self, rows: int) -> Array:
        return self._counts / rows

    def quantiles(self) -> list[float]:
        return []

    def state(self) -> list[int]:
        return [int(count) for count in self._counts]

    def restore(self, state: list[int]) -> None:
        self._counts = np.array(state, dtype=np.int64)
