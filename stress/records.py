"""The record of a run, ``requests.csv``: one line per call, written while it runs, and the figures that are made of it.

Times are in seconds since the run began, latencies in milliseconds. Rates and latencies count the calls that were answered
as expected: a fast failure must not make a service look fast.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stress.errors import StressError

__all__ = ["Figures", "RecordWriter", "Records", "Timeline", "figures", "make_timeline", "read_records"]

_COLUMNS = ("due_s", "kind", "rows", "status", "late_ms", "ms", "failure")


PERCENTS = (50, 95, 99)
"""Which percentiles of latency are shown over time."""


class RecordWriter:
    """Writes ``requests.csv`` line by line.

    Args:
        path: replaced if there is one.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerow(_COLUMNS)

    def write(  # noqa: PLR0913 - a column each
        self, *, due_s: float, kind: str, rows: int, status: int, late_ms: float, ms: float, failure: str
    ) -> None:
        """One call, sent ``late_ms`` and answered ``ms`` after it was due; ``failure`` is empty if it was good."""
        self._writer.writerow((f"{due_s:.4f}", kind, rows, status, f"{late_ms:.3f}", f"{ms:.3f}", failure))

    def close(self) -> None:
        """Writes what is left."""
        self._file.close()


@dataclass(frozen=True)
class Records:
    """All calls of a run, a column each, of shape (calls,)."""

    due_s: NDArray[np.float64]
    kinds: NDArray[np.str_]
    rows: NDArray[np.int64]
    late_ms: NDArray[np.float64]
    ms: NDArray[np.float64]
    failures: NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.ms)

    @property
    def good(self) -> NDArray[np.bool_]:
        """Which calls were answered as expected."""
        return np.array([not failure for failure in self.failures], dtype=bool)

    @property
    def seconds(self) -> float:
        """From the beginning of the run to its last answer."""
        return float((self.due_s + self.ms / 1000).max(initial=0.0))

    def only(self, chosen: NDArray[np.bool_]) -> Records:
        """Some of the calls."""
        return Records(*(column[chosen] for column in vars(self).values()))

    def failure_counts(self) -> Counter[str]:
        """How often each failure happened."""
        return Counter(failure for failure in self.failures if failure)


def read_records(path: Path) -> Records:
    """What a run wrote.

    Raises:
        StressError: there is no such file.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.reader(file))[1:]
    except OSError as error:
        raise StressError(f"{path} cannot be read: {error.strerror}") from error
    due, kinds, rows, _, late, ms, failures = zip(*lines, strict=True) if lines else ((),) * len(_COLUMNS)
    return Records(
        np.array(due, dtype=np.float64),
        np.array(kinds, dtype=np.str_),
        np.array(rows, dtype=np.int64),
        np.array(late, dtype=np.float64),
        np.array(ms, dtype=np.float64),
        np.array(failures, dtype=np.object_),
    )


@dataclass(frozen=True)
class Figures:
    """What is said of some calls; latencies are NaN where none was good."""

    calls: int
    failures: int
    calls_per_s: float
    rows_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


def figures(records: Records, seconds: float) -> Figures:
    """The figures of calls that were made within ``seconds``."""
    good = records.only(records.good)
    p50, p95, p99, most = _percentiles(good.ms, (*PERCENTS, 100))
    return Figures(
        calls=len(records),
        failures=len(records) - len(good),
        calls_per_s=len(good) / seconds if len(good) else 0.0,
        rows_per_s=float(good.rows.sum()) / seconds if len(good) else 0.0,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        max_ms=most,
    )


class Timeline(NamedTuple):
    """Figures over time: ``edges`` has shape (bins + 1,), the others (bins,); a call counts when it was answered."""

    edges: NDArray[np.float64]
    calls_per_s: NDArray[np.float64]
    failures_per_s: NDArray[np.float64]
    percentiles_ms: dict[int, NDArray[np.float64]]


def make_timeline(records: Records, seconds: float, *, max_bins: int = 120) -> Timeline:
    """Bins of whole seconds, at most about ``max_bins`` of them; the last ends with the run, a little longer or shorter."""
    answered = records.due_s + records.ms / 1000
    end = max(seconds, records.seconds)
    width = max(1, math.ceil(end / max_bins))
    edges = np.arange(0.0, max(1, round(end / width)) + 1) * width
    edges[-1] = end
    count = len(edges) - 1
    bins = np.clip(np.digitize(answered, edges) - 1, 0, count - 1)
    good = records.good
    percentiles = np.array([_percentiles(records.ms[good & (bins == number)], PERCENTS) for number in range(count)])
    return Timeline(
        edges,
        np.bincount(bins[good], minlength=count) / np.diff(edges),
        np.bincount(bins[~good], minlength=count) / np.diff(edges),
        {percent: percentiles[:, index] for index, percent in enumerate(PERCENTS)},
    )


def _percentiles(ms: NDArray[np.float64], percents: tuple[int, ...]) -> list[float]:
    return [float(value) for value in np.percentile(ms, percents)] if len(ms) else [math.nan] * len(percents)
