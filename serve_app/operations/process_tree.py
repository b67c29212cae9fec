"""The processes below this one: adopts orphans, finds processes by name, ends all of them."""

from __future__ import annotations

import contextlib
import ctypes
import io
import sys
from collections.abc import Callable

import psutil

__all__ = ["adopt_orphans", "processes_under", "stop_all"]

_STOP_TIMEOUT_S = 10


def adopt_orphans() -> None:
    """Makes this process the parent of any descendant whose own parent dies, so that stop_all finds all of them (Linux)."""
    set_child_subreaper = 36  # PR_SET_CHILD_SUBREAPER of linux/prctl.h
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(set_child_subreaper, 1, 0, 0, 0)


def processes_under(parent: psutil.Process, name: str) -> list[psutil.Process]:
    """The descendants of a process whose name begins with ``name``, without those that end during the search."""
    found = []
    for process in parent.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name().startswith(name):
                found.append(process)
    return found


def stop_all(before_stop: Callable[[], object], guard_pid: int) -> None:
    """Shuts Ray down, and ends every process below this one but the guard.

    Args:
        before_stop: called first; its errors are ignored.
        guard_pid: the guard's process.
    """
    ours = [process for process in psutil.Process().children(recursive=True) if process.pid != guard_pid]
    # Ray prints that its controller was killed, which is intended; and whatever goes wrong in Ray now, the processes must end.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
        before_stop()
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.pid != guard_pid:
                process.terminate()
    _, left = psutil.wait_procs(ours, timeout=_STOP_TIMEOUT_S)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=_STOP_TIMEOUT_S)
