from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from support.load_records import hundred_calls, write_calls

from stress.errors import StressError
from stress.records import Figures, compare, figures, make_timeline, read_records


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    records = write_calls(tmp_path / "requests.csv", [(0.25, "batch", 7, 1.5, ""), (0.5, "one row", 1, 2.5, 'row 3, "x"')])
    assert records["due_s"].tolist() == [0.25, 0.5]
    assert records["kind"].tolist() == ["batch", "one row"]
    assert records["rows"].tolist() == [7, 1]
    assert records["ms"].tolist() == [1.5, 2.5]
    assert records["late_ms"].tolist() == [0.5, 0.5]
    assert records["good"].tolist() == [True, False]
    assert records["failure"].tolist() == ["", 'row 3, "x"']


def test_a_run_without_calls_has_records_and_no_figures(tmp_path: Path) -> None:
    records = write_calls(tmp_path / "requests.csv", [])
    found = figures(records, 1.0)
    assert (len(records), found.calls, found.calls_per_s) == (0, 0, 0.0)
    assert math.isnan(found.p99_ms)


def test_records_that_are_missing_are_an_error_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(StressError, match=r"requests\.csv cannot be read"):
        read_records(tmp_path / "requests.csv")


def test_failures_count_neither_as_throughput_nor_as_latency(tmp_path: Path) -> None:
    records = hundred_calls(tmp_path / "requests.csv")
    found = figures(records, 2.0)
    good = [float(i + 1) for i in range(100) if i % 10]
    assert (found.calls, found.failures) == (100, 10)
    assert (found.calls_per_s, found.rows_per_s) == (45.0, 90.0)
    assert found.p50_ms == np.percentile(good, 50)
    assert found.p99_ms == np.percentile(good, 99)
    assert found.max_ms == 100.0


def test_a_timeline_holds_every_call_once_in_bins_of_whole_seconds(tmp_path: Path) -> None:
    records = hundred_calls(tmp_path / "requests.csv")  # the last answer comes after 2.08 s
    timeline = make_timeline(records, 2.0)
    widths = np.diff(timeline.edges)
    assert timeline.edges.tolist() == [0.0, 1.0, pytest.approx(2.08)]
    assert (timeline.calls_per_s * widths).sum() == pytest.approx(90)
    assert (timeline.failures_per_s * widths).sum() == pytest.approx(10)
    in_first = [i + 1.0 for i in range(100) if i % 10 and i / 50 + (i + 1) / 1000 < 1]
    assert timeline.percentiles_ms[95][0] == np.percentile(in_first, 95)
    coarse = make_timeline(records, 2000.0, max_bins=10)
    assert coarse.calls_per_s.tolist() == [90 / 200, *[0.0] * 9]


def made(calls_per_s: float, p99_ms: float) -> Figures:
    return Figures(10, 0, calls_per_s, calls_per_s, 1.0, 2.0, p99_ms, 9.0)


def test_two_servers_are_compared_by_the_medians_of_their_rounds() -> None:
    compared = compare([made(100, 4), made(300, 6), made(200, 5)], [made(50, 10)] * 3)
    assert [compared.loc["calls/s", column] for column in ("A", "B", "ratio")] == [200, 50, 0.25]
    assert compared.loc["p99 ms", "ratio"] == 2.0
    assert list(compared.index) == ["calls/s", "rows/s", "p50 ms", "p95 ms", "p99 ms", "max ms"]
    assert math.isnan(compare([made(0, 1)], [made(5, 1)])["ratio"].iloc[0])
