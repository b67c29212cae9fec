"""HAProxy's admin socket: its statistics, and its soft stop. Knows neither Ray nor how HAProxy was started."""

from __future__ import annotations

import contextlib
import csv
import re
import signal
import socket
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from serve_app.operations.process_tree import processes_under

__all__ = ["HAProxyAdmin", "admin_sockets", "drain_http"]

_POLL_INTERVAL_S = 0.1
_DISPLACED_TIMEOUT_S = 5
_ADMIN_PROMPT = b"\n> "
_ADMIN_TIMEOUT_S = 5


def drain_http(timeout_s: float) -> None:
    """Makes HAProxy close its port (SIGUSR1: its soft stop), and waits until it has answered the requests in flight.

    HAProxy itself ends only when its last idle connection is closed, which may be a minute later. So a connection to its admin
    socket, opened before the stop, tells how many requests are left. A process that a reload has displaced no longer has that
    socket; it is given a few seconds to end.

    Args:
        timeout_s: how long the requests in flight may take.
    """
    proxies = processes_under(psutil.Process(), "haproxy")
    deadline = time.monotonic() + timeout_s
    with contextlib.ExitStack() as stack:
        admins = []
        for path in admin_sockets(proxies):
            with contextlib.suppress(OSError):  # it has ended: no request of it is in flight
                admins.append(stack.enter_context(contextlib.closing(HAProxyAdmin(path))))
        for proxy in proxies:
            with contextlib.suppress(psutil.NoSuchProcess):
                proxy.send_signal(signal.SIGUSR1)
        while any(admin.ongoing_requests() for admin in admins) and time.monotonic() < deadline:
            time.sleep(_POLL_INTERVAL_S)
    displaced = len(proxies) > len(admins)
    psutil.wait_procs(proxies, timeout=min(_DISPLACED_TIMEOUT_S, timeout_s) if displaced else 0)


def admin_sockets(proxies: Iterable[psutil.Process]) -> set[str]:
    """The paths of the admin sockets of HAProxy processes; processes with one configuration share one."""
    paths = set()
    for proxy in proxies:
        with contextlib.suppress(psutil.NoSuchProcess, OSError):
            command = proxy.cmdline()
            if "-f" not in command:  # Ray Serve also runs `haproxy -v`
                continue
            config = Path(command[command.index("-f") + 1]).read_text(encoding="utf-8")
            paths.update(re.findall(r"^\s*stats socket (\S+)", config, re.MULTILINE))
    return {path for path in paths if Path(path).is_socket()}


class HAProxyAdmin:
    """A connection to HAProxy's admin socket that outlives the start of its soft stop."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_ADMIN_TIMEOUT_S)
        self._socket.connect(path)
        self._ask("prompt")

    def ongoing_requests(self) -> int:
        """The number of requests that HAProxy has passed on and not answered yet; 0 if it has ended."""
        try:
            return sum(int(row["scur"]) for row in self.statistics() if row["svname"] == "BACKEND")
        except OSError:
            return 0

    def statistics(self) -> list[dict[str, str]]:
        """HAProxy's own statistics: a row for each frontend, backend and server.

        Raises:
            OSError: HAProxy has ended.
        """
        return list(csv.DictReader(self._ask("show stat").lstrip("# ").splitlines()))

    def close(self) -> None:
        """Closes the connection."""
        self._socket.close()

    def _ask(self, command: str) -> str:
        self._socket.sendall(f"{command}\n".encode())
        answer = b""
        while not answer.endswith(_ADMIN_PROMPT):
            part = self._socket.recv(65536)
            if not part:
                raise ConnectionResetError
            answer += part
        return answer.removesuffix(_ADMIN_PROMPT).decode()
