"""The machine, and the CPU time around a measurement: the server's, and the share that other programs used.

Figures from a shared machine mean little without that share.
"""

from __future__ import annotations

import platform
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self

import msgspec
import psutil

from benchmarks.processes import ProcessTree

__all__ = ["CpuClock", "Figure", "Machine", "Meter", "Shares", "cpu_clock", "describe_machine", "shares"]

Figure = dict[str, float]
"""The result of one scenario: quantity, with its unit in its name, to value."""


class CpuClock(NamedTuple):
    """Seconds since boot, summed over all CPUs."""

    total_s: float
    busy_s: float
    steal_s: float


class Shares(NamedTuple):
    """Parts of the whole machine (1.0 = all CPUs, all the time).

    ``others`` is what neither the server nor the load generator used, including ``steal``: the time that other virtual
    machines on the same hardware took.
    """

    others: float
    steal: float


def cpu_clock(times: Mapping[str, float]) -> CpuClock:
    """The clock from psutil's reading of /proc/stat, in which guest time is part of user time as well."""
    busy_s = sum(times[part] for part in ("user", "nice", "system", "irq", "softirq"))
    return CpuClock(busy_s + times["idle"] + times["iowait"] + times["steal"], busy_s, times["steal"])


def shares(before: CpuClock, after: CpuClock, ours_s: float) -> Shares:
    """The shares between two readings, when the server and the load generator together used ``ours_s``."""
    total_s = after.total_s - before.total_s
    if total_s <= 0:
        return Shares(0.0, 0.0)
    steal_s = after.steal_s - before.steal_s
    # The clocks tick every 10 ms, so that the rest of an undisturbed second may come out negative.
    others_s = max(0.0, after.busy_s - before.busy_s - ours_s)
    return Shares((others_s + steal_s) / total_s, steal_s / total_s)


class Meter:
    """Measures the duration and CPU time of a block.

    Args:
        server: the server's processes; None if this process itself does the work.
    """

    def __init__(self, server: ProcessTree | None = None) -> None:
        self._server = server
        self.seconds = 0.0
        self.server_cpu_s = 0.0
        self._shares = Shares(0.0, 0.0)

    def __enter__(self) -> Self:
        """Reads the clocks."""
        self._began = time.perf_counter()
        self._start = self._read()
        return self

    def __exit__(self, *_: object) -> None:
        """Reads them again."""
        clock, server_s, harness_s = self._read()
        self.seconds = time.perf_counter() - self._began
        self.server_cpu_s = server_s - self._start[1]
        self._shares = shares(self._start[0], clock, self.server_cpu_s + harness_s - self._start[2])

    def shares(self) -> Figure:
        """How disturbed the block was."""
        return {"others_share": self._shares.others, "steal_share": self._shares.steal}

    def _read(self) -> tuple[CpuClock, float, float]:
        """The machine's clock, the CPU seconds of the server, and those of this process and its finished children (wrk)."""
        server_s = self._server.cpu_s() if self._server else 0.0
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return cpu_clock(psutil.cpu_times()._asdict()), server_s, sum(usage.ru_utime + usage.ru_stime for usage in usages)


class Machine(msgspec.Struct, frozen=True):
    """What the report says of the machine."""

    cpu: str
    cpus: int
    memory_gib: float
    system: str
    python: str


def describe_machine() -> Machine:
    """This machine."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return Machine(
        cpu=models[0].partition(":")[2].strip() if models else platform.machine(),
        cpus=psutil.cpu_count() or 1,
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )
