"""The lifetime of a service: its record, its folder, and the guard that ends everything with it.

Owns what has to exist before the first process of a service starts, and the way out while it starts: a stop signal then has
nothing to wait for, so this process becomes a program that only waits until the guard has ended everything. Knows nothing
of Ray.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from serve_app.operations import guard
from serve_app.operations.guard import CLEAN, SERVICE, end_processes, remove_files
from serve_app.operations.running_services import RunningService, ServiceRecord, left_services, mark_reported
from serve_app.operations.stop_signals import StopSignals

__all__ = ["Lifetime", "lifetime"]

_WAIT = "import os, sys; os.waitpid(int(sys.argv[1]), 0); print('Stopped.')"
_GUARD_TIMEOUT_S = 30


class Lifetime:
    """A service from its start to its end; ``folder`` is for its files, ``notes`` are sentences for the user."""

    def __init__(self, config: Path | None, port: int | None) -> None:
        self.notes = tuple(_end_left_services())
        self.folder = Path(tempfile.mkdtemp(prefix="serve_app-"))
        name = secrets.token_hex(8)
        self._service = RunningService(name, os.getpid(), str(config) if config else None, port, str(self.folder))
        self._record = ServiceRecord(self._service)
        os.environ[SERVICE] = name
        # Otherwise Ray's processes overwrite their environment, as others see it, by their title.
        os.environ["SPT_NOENV"] = "1"
        # In a session of its own: it must not end by a Ctrl-C of the terminal.
        self._guard = subprocess.Popen(  # noqa: S603 - our own
            [sys.executable, "-IS", str(Path(guard.__file__)), name, str(self.folder), str(self._record.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def guard_pid(self) -> int:
        """The guard's process, which ends last."""
        return self._guard.pid

    def announce(self, ray_address: str) -> None:
        """Lets commands such as ``deploy`` find the service."""
        self._record.write(msgspec.structs.replace(self._service, ray_address=ray_address))

    def end(self, *, is_clean: bool) -> None:
        """Has the guard end what is left, and waits for it; Ray's logs stay unless the end is clean."""
        if is_clean:
            self._tell_guard()
        assert self._guard.stdin is not None  # noqa: S101 - a pipe was asked for
        self._guard.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._guard.wait(_GUARD_TIMEOUT_S)
        self._record.close()
        del os.environ[SERVICE]

    def leave(self) -> None:
        """Ends the service and this process at once, wherever its threads are; never returns.

        Its threads would print errors or crash when Ray's processes end. So this process becomes another program: that
        closes the pipe, the guard ends everything, and the new program waits for the guard.
        """
        self._tell_guard()
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        del os.environ[SERVICE]  # the guard does not end what has not got it
        os.execv(sys.executable, [sys.executable, "-IS", "-c", _WAIT, str(self._guard.pid)])  # noqa: S606 - our own

    def _tell_guard(self) -> None:
        """Says that the end is clean."""
        assert self._guard.stdin is not None  # noqa: S101 - a pipe was asked for
        with contextlib.suppress(BrokenPipeError):
            os.write(self._guard.stdin.fileno(), CLEAN)


@contextlib.contextmanager
def lifetime(stop: StopSignals, *, config: Path | None = None, port: int | None = None) -> Iterator[Lifetime]:
    """A block in which a service lives; whatever ends it, nothing of the service is left.

    Args:
        stop: a stop signal ends the service at once until it says that the service answers.
        config: the service's config file; None for a worker of a cluster.
        port: the service's HTTP port; None for a worker of a cluster.

    Raises:
        StartError: there is no folder for its record.
    """
    this = Lifetime(config, port)
    stop.leave = this.leave
    try:
        yield this
    except BaseException:
        this.end(is_clean=not (this.folder / "ray").exists())  # what went wrong before Ray started is not in its logs
        raise
    else:
        this.end(is_clean=True)


def _end_left_services() -> Iterator[str]:
    """Ends what services that were killed have left; a sentence for each that the user does not know of yet.

    The logs of the last one stay until the next one is killed.
    """
    left = left_services()
    for path, service in left:
        ended = end_processes(service.name)
        is_last = path == left[-1][0]
        remove_files(Path(service.folder), keep_logs=is_last)
        if not service.is_reported:
            sentences = [f"An earlier service did not stop cleanly: {service}."]
            if ended:
                names = ", ".join(f"{name} ({pid})" for pid, name in ended.items())
                sentences.append(f"It had left, and now ended: {names}.")
            if is_last:
                sentences.append(f"Its logs are in {service.folder}/ray.")
            yield " ".join(sentences)
        if is_last:
            mark_reported(path, service)
        else:
            path.unlink(missing_ok=True)
