"""The services of this user on this machine: where each keeps its files, and at which addresses it is reached.

Owns one record for each service, in a folder that only this user can read and write. No other source is trusted: a command such
as ``deploy`` sends Ray's token to the address that it finds here, and runs code that comes back. A running service holds a lock
on its record, so a record without a lock was left by a service that was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from serve_app.errors import ReleaseError, SettingsError, StartError

__all__ = ["RunningService", "ServiceRecord", "find_service", "left_services", "mark_reported"]


class RunningService(msgspec.Struct, frozen=True):
    """A service; ``ray_address`` is empty until it answers, and ``port`` is None on a worker of a cluster.

    ``name`` marks its processes, ``folder`` holds their files; ``is_reported`` is set once the user knows that it was killed.
    """

    name: str
    pid: int
    config: str | None
    port: int | None
    folder: str
    ray_address: str = ""
    is_reported: bool = False

    def __str__(self) -> str:
        return f"process {self.pid}" if self.port is None else f"port {self.port} ({self.config}, process {self.pid})"


class ServiceRecord:
    """The record of a service, locked as long as this object lives or until ``close``."""

    def __init__(self, service: RunningService) -> None:
        self.path = _new_record(service.name)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self.write(service)

    def write(self, service: RunningService) -> None:
        """Replaces the contents; the file stays the same, for its lock's sake."""
        _write(self._file, service)

    def close(self) -> None:
        """Lets go of the lock."""
        os.close(self._file)


def find_service(port: int | None = None) -> RunningService:
    """The service of this user on this machine that answers on a port, or the only one.

    Raises:
        ReleaseError: there is none, or it has not started yet.
        SettingsError: there are several, and no port chooses one.
    """
    services = [service for _, service in _read_records(is_locked=True)]
    found = services if port is None else [service for service in services if service.port == port]
    if not found:
        where = "" if port is None else f" on port {port}"
        others = f"; there is {_listed(services)}" if services else "; --address names one of another machine or user"
        raise ReleaseError(f"no service of this user runs here{where}{others}")
    if len(found) > 1:
        raise SettingsError(f"several services run here, choose one by --port: {_listed(found)}")
    if not found[0].ray_address:
        raise ReleaseError(f"the service has not started yet: {found[0]}")
    return found[0]


def left_services() -> list[tuple[Path, RunningService]]:
    """The records of services that were killed, oldest first."""
    return sorted(_read_records(is_locked=False), key=lambda entry: entry[0].stat().st_mtime)


def mark_reported(path: Path, service: RunningService) -> None:
    """Notes in the record of a service that was killed that the user knows."""
    with _opened(path) as file:
        _write(file, msgspec.structs.replace(service, is_reported=True))


def _new_record(name: str) -> Path:
    """The path of a new record, in a folder that nobody else can read or write.

    Raises:
        StartError: no such folder can be made.
    """
    reason = ""
    for folder in _folders():
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            reason = f": {folder}: {error.strerror}"
            continue
        if _is_private(folder):
            return folder / f"{name}.json"
        reason = f": {folder} belongs to another user, or others can read or write it"
    raise StartError(f"there is no folder for the address of the service; XDG_STATE_HOME can name one{reason}")


def _folders() -> list[Path]:
    """Where records of this machine may be; a home folder may be that of several machines."""
    home = os.environ.get("HOME")
    parents = (os.environ.get("XDG_STATE_HOME"), home and f"{home}/.local/state", os.environ.get("XDG_RUNTIME_DIR"))
    return [Path(parent, "serve_app", socket.gethostname()) for parent in parents if parent]


def _is_private(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        details = folder.lstat()
        is_ours = stat.S_ISDIR(details.st_mode) and details.st_uid == os.geteuid()
        return is_ours and stat.S_IMODE(details.st_mode) & 0o077 == 0
    return False


def _read_records(*, is_locked: bool) -> list[tuple[Path, RunningService]]:
    found = []
    for path in (path for folder in _folders() if _is_private(folder) for path in folder.glob("*.json")):
        with contextlib.suppress(OSError, msgspec.DecodeError), _opened(path) as file:  # it ends, or is being written
            if _has_lock(file) == is_locked:
                found.append((path, msgspec.json.decode(os.read(file, 65536), type=RunningService)))
    return found


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    file = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        yield file
    finally:
        os.close(file)


def _has_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _write(file: int, service: RunningService) -> None:
    content = msgspec.json.encode(service)
    os.pwrite(file, content, 0)
    os.ftruncate(file, len(content))


def _listed(services: list[RunningService]) -> str:
    return ", ".join(sorted(map(str, services)))
