"""What ends everything of a service when the service itself can do nothing any more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.serving import wait_until

from serve_app.operations import guard
from serve_app.operations.guard import CLEAN, SERVICE, end_processes, remove_files

SLEEP = "import sys, time; print('ready', flush=True); time.sleep(600)"


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the service 'here', which ignores every signal that it can, with a child of its own."""
    script = (
        "import signal, subprocess, sys, time\n"
        "for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(number, signal.SIG_IGN)\n"
        f"subprocess.Popen([sys.executable, '-c', {SLEEP!r}], start_new_session=True).wait()"
    )
    with subprocess.Popen([sys.executable, "-c", script], env={**os.environ, SERVICE: "here"}, stdout=subprocess.PIPE) as popen:
        assert popen.stdout is not None
        popen.stdout.readline()
        yield popen
        end_processes("here")


def test_all_processes_of_the_service_end_and_no_others(child: subprocess.Popen[bytes]) -> None:
    with subprocess.Popen([sys.executable, "-c", SLEEP], env={**os.environ, SERVICE: "elsewhere"}) as other:
        family = [psutil.Process(child.pid), *psutil.Process(child.pid).children()]
        ended = end_processes("here")
        assert set(ended) == {process.pid for process in family}
        assert all(name.startswith("python") for name in ended.values())
        assert psutil.wait_procs(family, timeout=5)[1] == []
        assert other.poll() is None
        other.kill()


def start_guard(folder: Path, record: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-IS", guard.__file__, "here", str(folder), str(record)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, env={**os.environ, SERVICE: "here"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of a service."""
    for file in ("haproxy/node/haproxy.1.crt.key", "ray/session_1/logs/raylet.err", "ray/session_1/sockets/raylet"):
        path = tmp_path / "folder" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    (tmp_path / "folder" / "ray" / "session_latest").symlink_to("session_1")
    (tmp_path / "record").write_text("{}")
    return tmp_path / "folder"


def test_when_its_pipe_is_closed_it_ends_the_service_and_keeps_the_logs(
    child: subprocess.Popen[bytes], folder: Path, tmp_path: Path
) -> None:
    with start_guard(folder, tmp_path / "record") as popen:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            wait_until(lambda: ignores(popen.pid), "the guard", 10)
            popen.send_signal(number)
        assert child.poll() is None
        assert popen.stdin is not None
        popen.stdin.close()
        assert popen.wait(20) == 0
    assert child.wait(5) == -signal.SIGKILL
    assert [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()] == ["ray/session_1/logs/raylet.err"]
    assert (tmp_path / "record").exists()


def ignores(pid: int) -> bool:
    (mask,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigIgn:")]
    return bool(int(mask.split()[1], 16) & (1 << (signal.SIGTERM - 1)))


def test_after_a_clean_end_nothing_is_left(child: subprocess.Popen[bytes], folder: Path, tmp_path: Path) -> None:
    with start_guard(folder, tmp_path / "record") as popen:
        popen.communicate(CLEAN, timeout=20)
    assert child.wait(5) == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_the_folder_leads_nowhere(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("")
    (folder / "ray" / "session_1" / "link").symlink_to(tmp_path / "kept")
    (folder / "ray" / "session_2").symlink_to(tmp_path / "kept")
    remove_files(folder, keep_logs=True)
    remove_files(folder, keep_logs=False)
    assert (tmp_path / "kept" / "file").exists()
    assert not folder.exists()
