"""A server's process tree: started, measured and stopped as one.

Every process that a server starts inherits a mark in its environment. Parents alone would not do: daemons leave the tree
that they were born in. Nor would the mark alone: a process that sets its title may overwrite its environment.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from benchmarks.errors import BenchmarkError

__all__ = ["ProcessTree", "started"]

_MARK = "BENCHMARK_SERVER"
_STOP_TIMEOUT_S = 15.0
_POLL_INTERVAL_S = 0.1
_LOG_LINES = 15


class ProcessTree:
    """The processes of one server.

    Args:
        root: the process that was started; all others descend from it.
        mark: what their environments carry.
        log: where they write their output.
    """

    def __init__(self, root: subprocess.Popen[bytes], mark: str, log: Path) -> None:
        self._root = root
        self._mark = mark
        self._log = log
        self._known: dict[int, float] = {}  # pid to time of creation, which tells a process from a later one of its number

    def processes(self) -> list[psutil.Process]:
        """Those that are alive now."""
        alive = {process.pid: process for process in psutil.process_iter()}
        ours = {pid for pid, process in alive.items() if self._is_ours(process)}
        children: dict[int, list[int]] = {}
        for pid, process in alive.items():
            with contextlib.suppress(psutil.NoSuchProcess):
                children.setdefault(process.ppid(), []).append(pid)
        waiting = list(ours)
        while waiting:
            found = [child for child in children.get(waiting.pop(), []) if child not in ours]
            ours.update(found)
            waiting += found
        self._known = {pid: alive[pid].create_time() for pid in ours}
        return [alive[pid] for pid in ours]

    def cpu_s(self) -> float:
        """CPU seconds that the tree has used, user and system; children that were waited for included."""
        used = 0.0
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                used += times.user + times.system + times.children_user + times.children_system
        return used

    def memory_mb(self) -> float:
        """Resident megabytes, a page that n processes share counted as one n-th in each (PSS)."""
        pss = 0
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                pss += process.memory_full_info().pss
        return pss / 1e6

    def resident_mb(self) -> dict[int, float]:
        """Resident megabytes of each process by its number; cheap enough to be read all the time."""
        resident = {}
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                resident[process.pid] = process.memory_info().rss / 1e6
        return resident

    def require_alive(self) -> None:
        """Makes sure that the process that was started still runs.

        Raises:
            BenchmarkError: it ended; the sentence holds its last output.
        """
        if self._root.poll() is not None:
            raise BenchmarkError(f"the server ended with status {self._root.returncode}:\n{self.last_output()}")

    def last_output(self) -> str:
        """The last lines that the server wrote."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:])

    def stop(self) -> None:
        """Asks politely, waits, then kills what is left."""
        seen = set(self.processes())
        with contextlib.suppress(ProcessLookupError):
            self._root.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._root.wait(_STOP_TIMEOUT_S)
        while left := [process for process in seen.union(self.processes()) if _is_alive(process)]:
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            time.sleep(_POLL_INTERVAL_S)
            self._root.poll()
        self._root.wait()

    def _is_ours(self, process: psutil.Process) -> bool:
        if process.pid == self._root.pid:
            return True
        try:
            if process.pid in self._known:
                return process.create_time() == self._known[process.pid]
            return process.environ().get(_MARK) == self._mark
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False


def _is_alive(process: psutil.Process) -> bool:
    """Whether there is something to kill: not so for one that only waits for its parent to take note of its end."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def started(command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path) -> Iterator[ProcessTree]:
    """A running server, which does not outlive the block, whatever ends it.

    Args:
        command: program and arguments.
        environment: variables on top of this process's own, without those that would configure Ray.
        folder: to run in.
        log: file for its output.
    """
    mark = uuid.uuid4().hex
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # Every environment finds the rivals' modules below this folder.
    paths = [str(folder), *filter(None, [inherited.get("PYTHONPATH")])]
    inherited["PYTHONPATH"] = os.pathsep.join(paths)
    with log.open("wb") as output:
        # A session of its own: Ctrl-C reaches this process alone, which then stops the server in order.
        root = subprocess.Popen(
            command,
            env={**inherited, **environment, _MARK: mark},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    tree = ProcessTree(root, mark, log)
    try:
        yield tree
    finally:
        _stop_undisturbed(tree)


def _stop_undisturbed(tree: ProcessTree) -> None:
    """Stopping takes seconds; a second, impatient Ctrl-C must not leave half of a server behind."""
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        tree.stop()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
