"""The highest rate of calls at which the 99th percentile of latency stays under a limit. Pure except for the measurement.

A step is an open load: calls are due at a rate, as a Poisson process, whether or not earlier ones have been answered, and
latency counts from when a call was due. An overloaded service therefore shows a growing latency within seconds, whereas
users who wait for answers would only call less often.

The search doubles the rate until a step does not hold, narrows the gap by bisection, and confirms the result with a longer
step. If that does not hold, it lowers the rate by a tenth and measures again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from stress.records import Records, figures

__all__ = ["CONFIRMATION", "Capacity", "Step", "search_capacity", "summarise_step"]

CONFIRMATION = 3
"""How many times longer than the other steps the last one is."""

_MAX_RETREATS = 5
_LOWEST_SHARE = 1 / 16  # of the first rate: the search gives up below it


@dataclass(frozen=True)
class Step:
    """The latencies of calls at a rate, measured for some seconds after the warm-up.

    ``late_p99_ms`` is how late the load generator sent the calls: a large part of ``p99_ms`` means that the generator, not
    the service, was overloaded.
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
    """``rate`` is the highest that held, confirmed; None if none did, with ``lowest`` being the last one tried.

    ``unbounded``: the highest rate of the search held, so that the capacity is that or more.
    """

    rate: float | None
    lowest: float
    unbounded: bool


def summarise_step(records: Records, rate: float, warm_up_s: float, seconds: float) -> Step:
    """The figures of the calls that were due within ``seconds`` after the warm-up."""
    due = records[records["due_s"].between(warm_up_s, warm_up_s + seconds, inclusive="left")]
    found, late_p99_ms = figures(due, seconds), float(due["late_ms"].quantile(0.99))
    return Step(rate, seconds, found.calls, found.failures, found.p50_ms, found.p99_ms, late_p99_ms)


def search_capacity(
    measure: Callable[[float, int], Step], *, first: float, most: float, limit_ms: float, precision: float
) -> Capacity:
    """Searches rates in calls per second up to ``most``.

    Args:
        measure: measures a step at a rate, for a multiple of the usual duration.
        first: the rate to begin with.
        most: the highest rate to try.
        limit_ms: the limit of the 99th percentile.
        precision: the final gap between the highest rate that holds and the lowest that does not: 0.05 is 5 %.
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
    """A rate that holds and a higher one that does not; None for either that does not exist within the bounds."""
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
