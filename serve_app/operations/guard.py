#!/usr/bin/env -S python3 -IS
"""The program that ends what a service leaves, whatever ends the service: ``kill -9`` and a lack of memory included.

Owns the end of a service's processes and files. ``run`` and ``join`` start it first, with a pipe that only they hold: when the
pipe is closed, they have ended. All their processes have the service's name in their environment, by which this program finds
them.

Knows the standard library only, so that it is small; it runs as long as the service.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

__all__ = ["CLEAN", "SERVICE", "end_processes", "remove_files"]

SERVICE = "SERVE_APP_SERVICE"
"""The variable that names the service to which a process belongs."""
CLEAN = b"clean"
"""What a service writes into the pipe when it has stopped as it should."""

_POLL_INTERVAL_S = 0.02
_TIMEOUT_S = 20


def end_processes(service: str) -> dict[int, str]:
    """Kills all processes of a service but this one; returns their names."""
    ended: dict[int, str] = {}
    deadline = time.monotonic() + _TIMEOUT_S
    while (found := _processes(service)) and time.monotonic() < deadline:
        for pid, name in found.items():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            ended[pid] = name
        time.sleep(_POLL_INTERVAL_S)
    return ended


def remove_files(folder: Path, *, keep_logs: bool) -> None:
    """Removes the folder of a service; after an unclean end, Ray's logs stay in it for the user to read."""
    if not keep_logs:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in folder.glob("*"):
        if path.name != "ray":
            shutil.rmtree(path, ignore_errors=True)
    for session in folder.glob("ray/session_*"):
        for path in session.glob("*") if not session.is_symlink() else ():
            if path.name != "logs":
                shutil.rmtree(path, ignore_errors=True)
                with contextlib.suppress(OSError):
                    path.unlink()


def _processes(service: str) -> dict[int, str]:
    mark = f"{SERVICE}={service}".encode()
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):  # it has ended, or belongs to another user
                if folder.stat().st_uid == os.geteuid() and mark in (folder / "environ").read_bytes().split(b"\0"):
                    found[int(folder.name)] = (folder / "comm").read_text(encoding="utf-8", errors="replace").strip()
    return found


def _main(service: str, folder: Path, record: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the service decides when it ends
    is_clean = sys.stdin.buffer.read() == CLEAN
    end_processes(service)
    remove_files(folder, keep_logs=not is_clean)
    if is_clean:
        record.unlink(missing_ok=True)


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
