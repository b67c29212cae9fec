"""The highest rate of calls at which the 99th percentile of latency stays under a limit. Pure but for what measures a step.

A step is an open load: calls are due at a rate, as a Poisson process, whether or not those before have been answered, and
latency counts from when a call was due. A service that is given more than it can do therefore shows it within seconds, as
a latency that grows; users who wait for their answers would only call less often.

The search doubles the rate until a step does not hold, halves the gap until it is narrow enough, and measures what it has
found once more, for longer. Where that does not hold, it goes down by a tenth and measures again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stress.records import Records, figures

__all__ = ["Capacity", "Step", "search_capacity", "summarise_step"]

CONFIRMATION = 3
"""How many times as long as the others the last step is."""

_MAX_RETREATS = 5
_LOWEST_SHARE = 1 / 16  # of the first rate, where already that does not hold


@dataclass(frozen=True)
class Step:
    """What calls at a rate, for so many seconds after the warm-up, had to wait.

    ``late_p99_ms`` is how late the load generator itself sent them: where it is a good part of ``p99_ms``, the generator
    was at its end, not the service.
    """

    rate: float
    seconds: float
    calls: int
    failures: int
    p50_ms: float
    p99_ms: float
    late_p99_ms: float

    def holds(self, limit_ms: float) -> bool:
        """Whether no call failed and the 99th percentile is under the limit."""
        return self.calls > 0 and self.failures == 0 and self.p99_ms < limit_ms


@dataclass(frozen=True)
class Capacity:
    """``rate`` is the highest that held, also for longer; None where none did, ``lowest`` being the last that was tried.

    ``unbounded``: the highest rate that might be tried held, so that the capacity is that or more.
    """

    rate: float | None
    lowest: float
    unbounded: bool


def summarise_step(records: Records, rate: float, warm_up_s: float, seconds: float) -> Step:
    """The figures of the calls that were due within ``seconds`` after the warm-up."""
    due = records.only((records.due_s >= warm_up_s) & (records.due_s < warm_up_s + seconds))
    found = figures(due, seconds)
    late = float(np.percentile(due.late_ms, 99)) if len(due) else math.nan
    return Step(rate, seconds, found.calls, found.failures, found.p50_ms, found.p99_ms, late)


def search_capacity(
    measure: Callable[[float, int], Step], *, first: float, most: float, limit_ms: float, precision: float
) -> Capacity:
    """Searches between ``first`` and ``most`` calls per second, below ``first`` where that does not hold.

    Args:
        measure: measures a step at a rate, for so many times the usual length.
        first: the rate to begin with.
        most: the highest rate to try.
        limit_ms: what the 99th percentile must stay under.
        precision: how far apart the highest rate that holds and the lowest that does not may be in the end: 0.05 is 5 %.
    """
    low, high = _bracket(measure, first, most, limit_ms)
    while low is not None and high is not None and high / low > 1 + precision:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if measure(middle, 1).holds(limit_ms) else (low, middle)
    if low is None:
        return Capacity(None, lowest=first * _LOWEST_SHARE, unbounded=False)
    for retreat in range(_MAX_RETREATS):
        rate = low * 0.9**retreat
        if measure(rate, CONFIRMATION).holds(limit_ms):
            return Capacity(rate, rate, unbounded=high is None and retreat == 0)
    return Capacity(None, lowest=rate, unbounded=False)


def _bracket(
    measure: Callable[[float, int], Step], first: float, most: float, limit_ms: float
) -> tuple[float | None, float | None]:
    """A rate that holds and a higher one that does not; None for either where there is none within the bounds."""
    rate = min(first, most)
    if measure(rate, 1).holds(limit_ms):
        while rate < most:
            low, rate = rate, min(2 * rate, most)
            if not measure(rate, 1).holds(limit_ms):
                return low, rate
        return most, None
    while rate > first * _LOWEST_SHARE:
        high, rate = rate, rate / 2
        if measure(rate, 1).holds(limit_ms):
            return rate, high
    return None, rate
