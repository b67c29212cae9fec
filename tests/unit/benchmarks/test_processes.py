from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil

from serve_app.config import PROJECT_ROOT

# A process of its own measures and stops all of its descendants: the process of the tests has others.
HARNESS = """
import json, sys, time
from pathlib import Path
from benchmarks.processes import started
from stress.errors import StressError

command, log = [sys.executable, "-c", sys.argv[1]], Path(sys.argv[2])
with started(command, {}, log.parent, log) as tree:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not log.read_text():
        time.sleep(0.01)
    resident = tree.resident_mb()
    said = {"pids": list(resident), "resident": sum(resident.values()), "memory": tree.memory_mb(), "cpu": tree.cpu_s()}
    said["end"] = ""
    while time.monotonic() < deadline and not said["end"] and "ready" not in log.read_text():
        try:
            tree.require_alive()
        except StressError as error:
            said["end"] = str(error)
print(json.dumps(said))
"""
DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(60)
    os._exit(0)
os.wait()
sum(range(5_000_000))
print("ready", flush=True)
time.sleep(60)
"""


def run_harness(server: str, folder: Path) -> dict[str, object]:
    command = [sys.executable, "-c", HARNESS, server, str(folder / "log")]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=True, timeout=60)
    said: dict[str, object] = json.loads(done.stdout)
    return said


def test_a_daemon_that_has_left_its_parent_is_measured_and_stopped_with_the_server(tmp_path: Path) -> None:
    said = run_harness(DAEMON, tmp_path)
    pids = said["pids"]
    assert isinstance(pids, list)
    assert len(pids) == 2
    assert float(str(said["cpu"])) > 0
    assert 0 < float(str(said["memory"])) <= float(str(said["resident"]))
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_the_error_for_a_server_that_ends_has_its_last_output(tmp_path: Path) -> None:
    said = run_harness("raise SystemExit('no port')", tmp_path)
    assert said["end"] == "the server ended with status 1:\nno port"
