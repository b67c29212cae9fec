"""What this machine is, and how much of it others used while something was measured.

Owns the reading of /proc. Figures from a shared machine mean little without the share that others took.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any, NamedTuple

import psutil

__all__ = ["CpuClock", "Shares", "describe_machine", "parse_cpu_line", "read_cpu_clock", "shares"]

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class CpuClock(NamedTuple):
    """Seconds since boot, summed over all CPUs."""

    total_s: float
    busy_s: float
    steal_s: float


class Shares(NamedTuple):
    """Parts of the whole machine (1.0 = all CPUs, all the time).

    ``others`` is what neither the server nor the load generator used but somebody did, ``steal`` included: the time
    that other machines on the same hardware took from this one.
    """

    others: float
    steal: float


def parse_cpu_line(line: str, ticks_per_s: int) -> CpuClock:
    """The first line of /proc/stat: see proc_stat(5). Guest time is part of user time already."""
    user, nice, system, idle, iowait, irq, softirq, steal = (int(field) / ticks_per_s for field in line.split()[1:9])
    busy = user + nice + system + irq + softirq
    return CpuClock(total_s=busy + idle + iowait + steal, busy_s=busy, steal_s=steal)


def read_cpu_clock() -> CpuClock:
    """The machine's CPU clock now."""
    with Path("/proc/stat").open() as stat:
        return parse_cpu_line(stat.readline(), _TICKS_PER_S)


def shares(before: CpuClock, after: CpuClock, ours_s: float) -> Shares:
    """The share of others between two readings, when the server and the load generator together used ``ours_s``."""
    total_s = after.total_s - before.total_s
    if total_s <= 0:
        return Shares(0.0, 0.0)
    steal_s = after.steal_s - before.steal_s
    # Our own processes' clocks tick in 10 ms as well, so the rest of an undisturbed second may come out below nothing.
    others_s = max(0.0, after.busy_s - before.busy_s - ours_s)
    return Shares((others_s + steal_s) / total_s, steal_s / total_s)


def describe_machine() -> dict[str, Any]:
    """What the report says of this machine."""
    return {
        "cpu": _cpu_model(),
        "cpus": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
