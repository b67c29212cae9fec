from __future__ import annotations

import math
from pathlib import Path

import pytest

from stress.capacity import CONFIRMATION, Capacity, Step, search_capacity, summarise_step
from stress.records import RecordWriter, read_records


class Service:
    """Answers in 10 ms up to a rate, and in a second beyond it; the longer step may bear less."""

    def __init__(self, bears: float, bears_for_longer: float = math.inf) -> None:
        self.bears = bears
        self.bears_for_longer = bears_for_longer
        self.steps: list[tuple[float, int]] = []

    def measure(self, rate: float, times: int) -> Step:
        self.steps.append((rate, times))
        holds = rate <= (min(self.bears, self.bears_for_longer) if times > 1 else self.bears)
        return Step(rate, 5.0 * times, 100, 0, 5.0, 10.0 if holds else 1000.0, 0.1)

    def search(self, first: float = 100, most: float = 20_000) -> Capacity:
        return search_capacity(self.measure, first=first, most=most, limit_ms=100, precision=0.05)


@pytest.mark.parametrize("bears", [100, 137, 1400, 8000, 19_999])
def test_the_highest_rate_is_found_to_the_asked_precision(bears: float) -> None:
    service = Service(bears)
    found = service.search()
    assert found.rate is not None
    assert bears / 1.05 <= found.rate <= bears
    assert not found.unbounded
    assert service.steps[-1] == (found.rate, CONFIRMATION)
    assert all(times == 1 for _, times in service.steps[:-1])


@pytest.mark.parametrize("bears", [10, 60])
def test_a_first_rate_that_is_too_high_is_halved(bears: float) -> None:
    found = Service(bears).search()
    assert found.rate is not None
    assert bears / 1.05 <= found.rate <= bears


def test_what_does_not_hold_for_longer_is_not_the_capacity() -> None:
    found = Service(1000, bears_for_longer=800).search()
    assert found.rate is not None
    assert 800 * 0.9 <= found.rate <= 800


def test_a_service_that_bears_all_that_is_tried_bears_at_least_that() -> None:
    assert Service(math.inf).search(first=100, most=700) == Capacity(700, 700, unbounded=True)
    assert Service(math.inf).search(first=900, most=700).rate == 700


@pytest.mark.parametrize(("bears", "for_longer"), [(1, math.inf), (1000, 1)])
def test_a_service_that_bears_nothing_has_no_capacity(bears: float, for_longer: float) -> None:
    found = Service(bears, for_longer).search()
    assert found.rate is None
    assert found.lowest >= 6


@pytest.mark.parametrize(
    ("calls", "failures", "p99_ms", "holds"), [(9, 0, 99.9, True), (9, 0, 100.0, False), (9, 1, 5.0, False), (0, 0, 5.0, False)]
)
def test_a_step_holds_without_failures_and_under_the_limit(calls: int, failures: int, p99_ms: float, holds: bool) -> None:
    assert Step(10, 5, calls, failures, 1.0, p99_ms, 0.0).holds(100) is holds


def test_a_step_counts_what_was_due_after_the_warm_up(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path / "requests.csv")
    for due_s, ms, failure in ((0.5, 900.0, "lost"), (1.0, 10.0, ""), (2.9, 30.0, ""), (2.95, 1.0, "lost"), (3.0, 900.0, "")):
        writer.write(due_s=due_s, kind="one row", rows=1, status=200, late_ms=ms / 10, ms=ms, failure=failure)
    writer.close()
    step = summarise_step(read_records(tmp_path / "requests.csv"), 1.5, warm_up_s=1.0, seconds=2.0)
    assert (step.calls, step.failures, step.p50_ms) == (3, 1, 20.0)
    assert 2.9 < step.late_p99_ms <= 3.0
