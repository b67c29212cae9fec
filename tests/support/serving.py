"""A real service for tests: ``python -m serve_app run`` on a free port, stopped with all that it started."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import requests
import yaml

from serve_app.config import PROJECT_ROOT
from serve_app.operations.haproxy_admin import HAProxyAdmin, admin_sockets
from serve_app.operations.process_tree import processes_under

__all__ = [
    "STANDARD",
    "Server",
    "direct_replicas",
    "free_port",
    "ongoing_requests",
    "run_command",
    "serve",
    "wait_for_direct_way",
    "wait_until",
    "write_config",
]

START_TIMEOUT_S = 180
STOP_TIMEOUT_S = 60
_POLL_INTERVAL_S = 0.05
STANDARD = "class-prediction"  # the application of the committed config
CONFIG = PROJECT_ROOT / "config" / "serve_config.yaml"


@dataclass(frozen=True)
class Server:
    """A service that answers."""

    url: str
    process: psutil.Process
    log: Path

    @property
    def ray_address(self) -> str:
        """As the service announces it."""
        return self._announced(r"^Ray: +(\S+)")

    @property
    def dashboard(self) -> str:
        """URL of Ray's dashboard, as the service announces it."""
        return self._announced(r"^Dashboard: +(\S+)/#/serve")

    def _announced(self, pattern: str) -> str:
        wait_until(lambda: "Ctrl-C" in self.log.read_text(encoding="utf-8"), "the announcement", 30)
        (announced,) = re.findall(pattern, self.log.read_text(encoding="utf-8"), re.MULTILINE)
        return str(announced)

    def predict(self, body: bytes | str, **options: Any) -> requests.Response:
        """One call of POST /predict."""
        return requests.post(f"{self.url}/predict", data=body, timeout=120, **options)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float) -> None:
    """Polls until ``condition`` holds; fails with ``what`` after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} within {timeout_s} s"
        time.sleep(_POLL_INTERVAL_S)


def write_config(folder: Path, edit: Callable[[dict[str, Any]], object] = lambda _: None) -> tuple[Path, str]:
    """A copy of the committed config with a free port and an edit, and the service's URL."""
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    config["http_options"]["port"] = free_port()
    edit(config)
    path = folder / "serve_config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path, f"http://127.0.0.1:{config['http_options']['port']}"


@contextlib.contextmanager
def serve(command: Sequence[str], url: str, environment: dict[str, str] | None = None) -> Iterator[Server]:
    """Runs a command that serves ``url`` until the block ends, then stops it and checks that nothing of it is left."""
    folder = Path(tempfile.mkdtemp(prefix="serve-test-"))
    log = folder / "log"
    with log.open("wb") as output:
        # A session of its own: what the tests' terminal sends must not reach it, and SIGINT is not ignored in it.
        popen = subprocess.Popen(
            command,
            cwd=PROJECT_ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    process = psutil.Process(popen.pid)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _is_ready(url):
            said = log.read_text(encoding="utf-8", errors="replace")
            assert popen.poll() is None, f"{command} ended with {popen.returncode}:\n{said}"
            assert time.monotonic() < deadline, f"{command} did not answer within {START_TIMEOUT_S} s:\n{said}"
            time.sleep(_POLL_INTERVAL_S)
        yield Server(url, process, log)
    finally:
        family = [process, *process.children(recursive=True)] if popen.poll() is None else []
        with contextlib.suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGINT)  # what Ctrl-C does: the whole group gets it
        try:
            popen.wait(STOP_TIMEOUT_S)
        finally:
            _, left = psutil.wait_procs(family, timeout=5)
            names = [process.name() for process in left if process.is_running()]
            for leftover in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    leftover.kill()
            popen.wait(STOP_TIMEOUT_S)
            shutil.rmtree(folder)
        assert names == [], f"{command} left processes behind"


def wait_for_direct_way(server: Server, application: str = STANDARD) -> None:
    """Until HAProxy sends requests straight to a replica; at first they go through Ray Serve's own proxy."""
    wait_until(lambda: direct_replicas(server, application) > 0, "a replica behind HAProxy", 60)


def direct_replicas(server: Server, application: str = STANDARD) -> int:
    """How many Preprocessor replicas of an application HAProxy sends requests to."""

    def count(admin: HAProxyAdmin) -> int:
        return sum(f"{application}-Preprocessor-" in row["svname"] and row["status"] == "UP" for row in admin.statistics())

    return _ask_haproxy(server, count)


def ongoing_requests(server: Server) -> int:
    """How many requests HAProxy has passed on and not answered yet."""
    return _ask_haproxy(server, HAProxyAdmin.ongoing_requests)


def _ask_haproxy(server: Server, question: Callable[[HAProxyAdmin], int]) -> int:
    """What the service's HAProxy answers; 0 if there is none, as while it starts."""
    for path in admin_sockets(processes_under(server.process, "haproxy")):
        with contextlib.suppress(OSError), contextlib.closing(HAProxyAdmin(path)) as admin:
            return question(admin)
    return 0


def run_command(config: Path) -> list[str]:
    """``python -m serve_app run`` with a config."""
    return [sys.executable, "-m", "serve_app", "run", "--config", str(config)]


def _is_ready(url: str) -> bool:
    try:
        return bool(requests.get(f"{url}/ready", timeout=10).status_code == 200)
    except requests.RequestException:
        return False
