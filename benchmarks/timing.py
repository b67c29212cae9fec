"""How long a piece of work takes in one process. Imports nothing, so that it runs in any rival's environment."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

__all__ = ["median_time"]

_LOOP_S = 0.002  # far above what reading the clock costs


def median_time(work: Callable[[], object], seconds: float) -> float:
    """The median time of ``work``, in seconds, repeated for about ``seconds`` (three times at least)."""
    work()  # what the first call alone has to do is not part of it
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
