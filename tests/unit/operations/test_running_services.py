"""Where the addresses of running services are kept, and whom a command believes."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from serve_app.errors import ReleaseError, SettingsError, StartError
from serve_app.operations.running_services import RunningService, ServiceRecord, find_service, left_services, mark_reported


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of the records."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return tmp_path / "state" / "serve_app" / socket.gethostname()


def service(port: int | None = 1313, address: str = "127.0.0.1:1", name: str = "") -> RunningService:
    return RunningService(name or f"name{port}", 42, "config.yaml", port, "/folder", address)


def test_the_only_service_is_found_and_one_of_several_by_its_port() -> None:
    first = ServiceRecord(service(1313))
    assert find_service() == service(1313)
    second = ServiceRecord(service(1314, "127.0.0.1:2"))
    assert find_service(1313).ray_address == "127.0.0.1:1"
    assert find_service(1314).ray_address == "127.0.0.1:2"
    with pytest.raises(SettingsError, match=r"choose one by --port: port 1313 \(config.yaml, process 42\), port 1314 \(config"):
        find_service()
    with pytest.raises(ReleaseError, match=r"no service of this user runs here on port 1315; there is port 1313 \("):
        find_service(1315)
    for record in (first, second):
        record.close()


def test_without_a_service_the_message_says_what_to_do() -> None:
    with pytest.raises(ReleaseError, match="no service of this user runs here; --address names one"):
        find_service()


def test_a_service_that_starts_is_not_asked_yet() -> None:
    record = ServiceRecord(service(address=""))
    with pytest.raises(ReleaseError, match="the service has not started yet: port 1313"):
        find_service()
    record.write(service())
    assert find_service() == service()
    record.close()


def test_a_service_that_was_killed_is_not_found_but_left(state: Path) -> None:
    script = (
        "import os, sys; from serve_app.operations.running_services import RunningService, ServiceRecord\n"
        "record = ServiceRecord(RunningService('killed', os.getpid(), None, 7, '/folder', '127.0.0.1:1'))\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    with pytest.raises(ReleaseError):
        find_service()
    record = ServiceRecord(service())
    ((path, left),) = left_services()
    assert (left.name, left.port, path) == ("killed", 7, state / "killed.json")
    mark_reported(path, left)
    assert [each.is_reported for _, each in left_services()] == [True]
    record.close()


def test_only_this_user_can_read_and_write_the_record(state: Path) -> None:
    record = ServiceRecord(service())
    assert stat.S_IMODE(record.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    record.close()


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o707, 0o755])
def test_a_folder_that_others_can_write_or_read_is_not_believed(state: Path, mode: int) -> None:
    record = ServiceRecord(service())
    state.chmod(mode)
    with pytest.raises(ReleaseError, match="no service"):
        find_service()
    with pytest.raises(StartError, match=r"XDG_STATE_HOME can name one: .*/home/.*"):
        make_unwritable_and_record(Path(os.environ["HOME"]))
    record.close()


def make_unwritable_and_record(home: Path) -> None:
    home.write_text("no folder")
    try:
        ServiceRecord(service(1))
    finally:
        home.unlink()


def test_a_folder_of_another_user_is_not_believed(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = ServiceRecord(service())
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ReleaseError, match="no service"):
        find_service()
    record.close()


def test_a_link_to_a_folder_is_not_believed(state: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    state.parent.mkdir(parents=True)
    state.symlink_to(tmp_path / "elsewhere")
    record = ServiceRecord(service())  # in the home folder instead
    assert record.path.is_relative_to(os.environ["HOME"])
    assert find_service() == service()
    record.close()


def test_something_else_in_the_folder_is_ignored(state: Path) -> None:
    record = ServiceRecord(service())
    (state / "empty.json").write_text("")
    (state / "other.json").write_text('{"pid": "x"}')
    (state / "link.json").symlink_to("/etc/passwd")
    assert find_service() == service()
    assert left_services() == []
    record.close()


def test_what_ray_notes_in_a_folder_that_everyone_can_write_is_not_believed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir(mode=0o777)
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    with pytest.raises(ReleaseError, match="no service"):
        find_service()
