"""A server and all its processes: started, measured and stopped as one.

This process adopts the orphans among its descendants, so that even a daemon that leaves its parent is found, and nothing
outlives the run. Only one server runs at a time: all descendants belong to it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from serve_app.operations.process_tree import adopt_orphans
from stress.errors import StressError

__all__ = ["ProcessTree", "started"]

_STOP_TIMEOUT_S = 15.0
_KILL_TIMEOUT_S = 1.0
_LOG_LINES = 15


class ProcessTree:
    """The processes of the server that runs.

    Args:
        root: the process that was started.
        log: its output.
    """

    def __init__(self, root: subprocess.Popen[bytes], log: Path) -> None:
        self._root = root
        self._log = log

    def cpu_s(self) -> float:
        """The CPU seconds used so far, user and system, including finished children."""
        return sum(self._read(lambda process: sum(process.cpu_times()[:4])).values())

    def memory_mb(self) -> float:
        """The resident memory; a page that n processes share counts as one n-th in each (PSS)."""
        return sum(self._read(lambda process: process.memory_full_info().pss / 1e6).values())

    def resident_mb(self) -> dict[int, float]:
        """The resident memory of each process, by its number; cheap enough to be read continuously."""
        return self._read(lambda process: process.memory_info().rss / 1e6)

    def require_alive(self) -> None:
        """Checks that the process that was started still runs.

        Raises:
            StressError: it has ended; the message has its last output.
        """
        if self._root.poll() is not None:
            raise StressError(f"the server ended with status {self._root.returncode}:\n{self.last_output()}")

    def last_output(self) -> str:
        """The last lines of the server's output."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:])

    def stop(self) -> None:
        """Sends SIGTERM, waits, and kills all that is left."""
        with contextlib.suppress(ProcessLookupError):
            self._root.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._root.wait(_STOP_TIMEOUT_S)
        while left := _descendants():
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=_KILL_TIMEOUT_S)  # removes zombies, too
        self._root.wait()

    @staticmethod
    def _read(quantity: Callable[[psutil.Process], float]) -> dict[int, float]:
        found = {}
        for process in _descendants():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                found[process.pid] = quantity(process)
        return found


def _descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


@contextlib.contextmanager
def started(command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path) -> Iterator[ProcessTree]:
    """A running server that never outlives the block.

    Args:
        command: program and arguments.
        environment: added to this process's own, without variables that would configure Ray.
        folder: the current folder of the server, where it also finds the project's modules.
        log: file for its output.
    """
    adopt_orphans()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    inherited["PYTHONPATH"] = os.pathsep.join([str(folder), *filter(None, [inherited.get("PYTHONPATH")])])
    with log.open("wb") as output:
        # A session of its own: Ctrl-C reaches only this process, which then stops the server in order.
        root = subprocess.Popen(
            command,
            env={**inherited, **environment},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    tree = ProcessTree(root, log)
    try:
        yield tree
    finally:
        # Stopping takes seconds, and a second Ctrl-C must not interrupt it.
        previous = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            tree.stop()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
