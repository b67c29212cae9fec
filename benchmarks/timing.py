"""The time of a piece of work in one process. Imports only the standard library: it runs in every rival's environment."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

__all__ = ["median_time"]

_LOOP_S = 0.002  # much longer than reading the clock takes


def median_time(work: Callable[[], object], seconds: float) -> float:
    """The median time of ``work`` in seconds, repeated for about ``seconds`` and at least three times."""
    work()  # the first call may do more
    start = time.perf_counter()
    work()
    loops = max(1, round(_LOOP_S / max(time.perf_counter() - start, 1e-9)))
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < until:
        start = time.perf_counter()
        for _ in range(loops):
            work()
        times.append((time.perf_counter() - start) / loops)
    return statistics.median(times)
