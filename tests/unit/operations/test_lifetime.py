"""A service from its start to its end, with processes that are not Ray's."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from support.serving import wait_until

from serve_app.config import PROJECT_ROOT

SCRIPT = """
import subprocess, sys, time
from pathlib import Path
from serve_app.operations.stop_signals import StopSignals
stop = StopSignals()
from serve_app.operations.lifetime import lifetime
with lifetime(stop, config=Path("config.yaml"), port=int(sys.argv[1])) as service:
    (service.folder / "ray" / "session_1" / "logs").mkdir(parents=True)
    (service.folder / "ray" / "session_1" / "logs" / "raylet.err").write_text("why")
    (service.folder / "haproxy").mkdir()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if sys.argv[2] == "serving":
        stop.is_serving = True
        service.announce("127.0.0.1:1")
    print(service.folder, child.pid, service.guard_pid, *service.notes, sep="|", flush=True)
    if sys.argv[2] == "busy":
        while True:
            pow(7, 300_000)
    stop.requested.wait(60)
print("the end")
"""


class Service:
    """A process with a lifetime; ``notes`` is what it tells of earlier ones."""

    def __init__(self, state: Path, phase: str, port: int = 1313) -> None:
        environment = {**os.environ, "XDG_STATE_HOME": str(state), "PYTHONPATH": str(PROJECT_ROOT), "TMPDIR": str(state)}
        command = [sys.executable, "-c", SCRIPT, str(port), phase]
        self.popen = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.popen.stdout is not None
        folder, child, guard, *self.notes = self.popen.stdout.readline().strip().split("|")
        self.folder, self.child, self.guard = Path(folder), psutil.Process(int(child)), psutil.Process(int(guard))

    def end(self, number: int) -> tuple[int, str, str]:
        """Sends a signal; exit code, and what the process printed at last."""
        self.popen.send_signal(number)
        out, err = self.popen.communicate(timeout=30)
        return self.popen.returncode, out, err

    def is_gone(self) -> bool:
        return has_ended(self.child) and has_ended(self.guard)


def has_ended(process: psutil.Process) -> bool:
    """Whether a process has ended; in a container there may be nobody who asks for its exit code."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Starts services, of which none outlives the test."""
    started: list[Service] = []

    def start_one(phase: str, port: int = 1313) -> Service:
        started.append(Service(tmp_path, phase, port))
        return started[-1]

    yield start_one
    for service in started:
        service.popen.kill()
        service.popen.communicate()
        for process in (service.child, service.guard):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("phase", ["starting", "busy"])
def test_while_it_starts_a_stop_signal_ends_all_of_it_at_once_and_cleanly(
    start: Callable[..., Service], tmp_path: Path, phase: str, number: int
) -> None:
    service = start(phase)
    assert service.end(number) == (0, "Stopped.\n", "")
    assert service.is_gone()
    assert not service.folder.exists()
    assert not list(tmp_path.rglob("*.json"))


def test_while_it_serves_a_stop_signal_is_a_request(start: Callable[..., Service]) -> None:
    service = start("serving")
    assert service.end(signal.SIGTERM) == (0, "the end\n", "")
    assert service.is_gone()
    assert not service.folder.exists()


def test_when_it_is_killed_nothing_runs_on_and_the_next_start_tells_of_it_once(start: Callable[..., Service]) -> None:
    service = start("serving")
    killed = time.monotonic()
    service.end(signal.SIGKILL)
    wait_until(service.is_gone, "the end of all processes", 5)
    assert time.monotonic() - killed < 3
    assert [path.name for path in service.folder.rglob("*") if path.is_file()] == ["raylet.err"]
    second = start("serving")
    (note,) = second.notes
    assert note == (
        f"An earlier service did not stop cleanly: port 1313 (config.yaml, process {service.popen.pid}). "
        f"Its logs are in {service.folder}/ray."
    )
    assert second.end(signal.SIGTERM)[0] == 0
    third = start("serving")
    assert third.notes == []
    third.end(signal.SIGKILL)
    wait_until(third.is_gone, "the end of all processes", 5)
    fourth = start("serving")
    assert len(fourth.notes) == 1
    assert not service.folder.exists()  # the logs of the last one are enough
    assert fourth.end(signal.SIGTERM)[0] == 0


def test_if_the_guard_was_killed_too_the_next_start_ends_what_is_left_and_names_it(start: Callable[..., Service]) -> None:
    service = start("serving")
    service.guard.kill()
    service.end(signal.SIGKILL)
    assert not has_ended(service.child)
    name = service.child.name()
    second = start("serving")
    (note,) = second.notes
    assert f"It had left, and now ended: {name} ({service.child.pid})." in note
    wait_until(lambda: has_ended(service.child), "its end", 5)
    assert second.end(signal.SIGTERM)[0] == 0


def test_two_services_have_folders_of_their_own_that_nobody_else_can_enter(start: Callable[..., Service]) -> None:
    first, second = start("serving"), start("serving", 1314)
    assert first.folder != second.folder
    assert first.folder.stat().st_mode & 0o777 == 0o700
    assert first.end(signal.SIGTERM)[0] == 0
    assert not has_ended(second.child)
    assert second.folder.exists()
    assert second.end(signal.SIGTERM)[0] == 0
