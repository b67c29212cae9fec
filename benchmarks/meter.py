"""CPU time around a measurement: that of the server, and the share of the machine that others took meanwhile."""

from __future__ import annotations

import resource
import time
from typing import Self

from benchmarks.machine import CpuClock, read_cpu_clock, shares
from benchmarks.processes import ProcessTree

__all__ = ["Figure", "Meter"]

Figure = dict[str, float]
"""What was measured in one scenario: quantity (with its unit in its name) to value."""


class Meter:
    """Measures a block of code that works against a server. Use as a context.

    Args:
        server: the server's processes; None where this process itself does the work.
    """

    def __init__(self, server: ProcessTree | None = None) -> None:
        self._server = server
        self._start: tuple[CpuClock, float, float] = (CpuClock(0, 0, 0), 0.0, 0.0)
        self.seconds = 0.0
        self.server_cpu_s = 0.0
        self._shares = (0.0, 0.0)

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
        return {"others_share": self._shares[0], "steal_share": self._shares[1]}

    def _read(self) -> tuple[CpuClock, float, float]:
        """The machine's clock, and the CPU seconds of the server and of this process with those it waited for (wrk)."""
        server_s = self._server.cpu_s() if self._server else 0.0
        own = resource.getrusage(resource.RUSAGE_SELF)
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return read_cpu_clock(), server_s, own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
