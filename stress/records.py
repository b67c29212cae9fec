"""The record of a run, ``requests.csv``: one line per call, written during the run, and the figures computed from it.

Times are in seconds since the start of the run, latencies in milliseconds. Rates and latencies count only calls that were
answered as expected: a fast failure must not make a service look fast.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stress.errors import StressError

__all__ = [
    "Figures", "RecordWriter", "Records", "Timeline", "compare", "duration", "figures", "make_timeline",
    "read_records",
]  # fmt: skip

Records = pd.DataFrame
"""A line per call: the columns of requests.csv, ``good`` (answered as expected) and ``answered_s``."""

PERCENTS = (50, 95, 99)
"""The percentiles of latency that are shown over time."""

_COLUMNS = {"due_s": float, "kind": str, "rows": int, "status": int, "late_ms": float, "ms": float, "failure": str}


class RecordWriter:
    """Writes ``requests.csv``, replacing an existing one."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerow(_COLUMNS)

    def write(  # noqa: PLR0913 - a column each
        self, *, due_s: float, kind: str, rows: int, status: int, late_ms: float, ms: float, failure: str
    ) -> None:
        """One call, sent ``late_ms`` and answered ``ms`` after it was due; ``failure`` is empty for an expected answer."""
        self._writer.writerow((f"{due_s:.4f}", kind, rows, status, f"{late_ms:.3f}", f"{ms:.3f}", failure))

    def close(self) -> None:
        """Flushes and closes the file."""
        self._file.close()


def read_records(path: Path) -> Records:
    """Reads what a RecordWriter wrote.

    Raises:
        StressError: the file is missing.
    """
    try:
        records = pd.read_csv(path, dtype=_COLUMNS, keep_default_na=False)
    except OSError as error:
        raise StressError(f"{path} cannot be read: {error.strerror}") from error
    return records.assign(good=records["failure"] == "", answered_s=records["due_s"] + records["ms"] / 1000)


def duration(records: Records) -> float:
    """From the start of the run to its last answer, in seconds."""
    return float(records["answered_s"].max()) if len(records) else 0.0


class Figures(NamedTuple):
    """The figures of some calls; latencies are NaN if none was good."""

    calls: int
    failures: int
    calls_per_s: float
    rows_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


def figures(records: Records, seconds: float) -> Figures:
    """The figures of calls made within ``seconds``."""
    good = records[records["good"]]
    rates = (len(good) / seconds, float(good["rows"].sum()) / seconds) if len(good) else (0.0, 0.0)
    return Figures(len(records), len(records) - len(good), *rates, *good["ms"].quantile([0.5, 0.95, 0.99, 1.0]))


def compare(a: Sequence[Figures], b: Sequence[Figures]) -> pd.DataFrame:
    """Compares two servers: columns A and B with the medians of their rounds, and ``ratio``, B / A, NaN for an A of 0."""
    medians = pd.DataFrame({name: pd.DataFrame(rounds).median() for name, rounds in (("A", a), ("B", b))})
    medians = medians.drop(["calls", "failures"]).rename(lambda name: name.replace("_per_s", "/s").replace("_", " "))
    return medians.assign(ratio=medians["B"] / medians["A"].replace(0, math.nan))


class Timeline(NamedTuple):
    """Figures over time: ``edges`` has shape (bins + 1,), the others (bins,). A call counts when it was answered."""

    edges: NDArray[np.float64]
    calls_per_s: NDArray[np.float64]
    failures_per_s: NDArray[np.float64]
    percentiles_ms: dict[int, NDArray[np.float64]]


def make_timeline(records: Records, seconds: float, *, max_bins: int = 120) -> Timeline:
    """Divides a run into bins of whole seconds, at most about ``max_bins``; the last bin ends with the run."""
    end = max(seconds, duration(records))
    width = max(1, math.ceil(end / max_bins))
    edges = np.arange(0.0, max(1, round(end / width)) + 1) * width
    edges[-1] = end
    good, failed = records[records["good"]], records[~records["good"]]
    by_bin = good["ms"].groupby(np.digitize(good["answered_s"], edges[1:-1]))
    return Timeline(
        edges,
        np.histogram(good["answered_s"], edges)[0] / np.diff(edges),
        np.histogram(failed["answered_s"], edges)[0] / np.diff(edges),
        {percent: by_bin.quantile(percent / 100).reindex(range(len(edges) - 1)).to_numpy() for percent in PERCENTS},
    )
