"""A running service that things are done to, and how much is done."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from numpy.typing import NDArray
from serving import Server
from steady_load import SteadyLoad

__all__ = ["AT_LENGTH", "ROOM", "SOAK_SECONDS", "Target"]

AT_LENGTH = bool(os.environ.get("FAULTS_AT_LENGTH"))
SOAK_SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))
ROOM = 96  # requests at once: those beyond are refused


@dataclass(frozen=True)
class Target:
    """The service, rows for it, and what each version answers to them."""

    server: Server
    folder: Path
    rows: list[dict[str, Any]]
    expected: dict[str, NDArray[Any]]

    def load(self, **options: Any) -> SteadyLoad:
        """Steady load on it."""
        return SteadyLoad(self.server.url, self.rows, self.expected, **{"clients": 4, "pause_s": 0.01, **options})

    def processes(self, name: str) -> list[psutil.Process]:
        """Those of its processes whose title has ``name`` in it."""
        found = []
        for process in self.server.process.children(recursive=True):
            try:
                title = f"{process.name()} {' '.join(process.cmdline())}"
            except psutil.NoSuchProcess:
                continue
            if name in title:
                found.append(process)
        return found
