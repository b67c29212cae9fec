"""One run of a scenario: Locust in a process of its own, and the folder of its report.

- ``report.html``: Locust's report, with charts of throughput, percentiles and failures over time
- ``locust_*.csv``: Locust's tables
- ``requests.csv``: a line per call, from which all our figures are computed
- ``chart.png``: throughput, percentiles, failures and users in one picture
- ``locust.log``: Locust's output
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stress.dataset import PROJECT_ROOT
from stress.errors import StressError
from stress.records import Records, read_records
from stress.scenarios import Scenario

__all__ = ["INTERRUPTED", "Load", "Run", "run_load"]

_LOCUSTFILE = PROJECT_ROOT / "stress" / "locustfile.py"
_STOP_TIMEOUT_S = 10  # for the users' last calls
_POLL_S = 0.25
_FAILED = 1

INTERRUPTED = 130
"""Locust's exit code after Ctrl-C."""


@dataclass(frozen=True)
class Load:
    """What to run. With ``rate``, calls per second that wait for no answer; without, the scenario's users.

    With ``web_port``, Locust serves its web page there until Ctrl-C.
    """

    scenario: Scenario
    url: str
    data: Path
    out: Path
    seed: int
    rate: float = 0.0
    web_port: int | None = None


@dataclass(frozen=True)
class Run:
    """The outcome. ``complaint`` says why the run failed, apart from failed calls; it is empty otherwise."""

    load: Load
    records: Records
    complaint: str

    @property
    def failed(self) -> bool:
        """Whether a call failed, none was made, or Locust itself failed."""
        return bool(self.complaint) or not self.records["good"].all()


def run_load(load: Load, watch: Callable[[float, int], None]) -> Run:
    """Runs a load to its end, or until Ctrl-C, and calls ``watch`` now and then with the seconds and calls so far.

    Raises:
        StressError: Locust did not start; the message is Locust's.
    """
    load.out.mkdir(parents=True, exist_ok=True)
    log, records = load.out / "locust.log", load.out / "requests.csv"
    records.unlink(missing_ok=True)
    with log.open("wb") as output:
        out = None if load.web_port else output
        process = subprocess.Popen(_command(load, records), cwd=PROJECT_ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        code = _wait(process, records, watch)
    if not records.exists():
        reason = log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
        raise StressError(f"Locust did not start: {reason or f'exit code {code}'}")
    found = read_records(records)
    return Run(load, found, _complaint(code, found, log))


def _command(load: Load, records: Path) -> list[str]:
    out = load.out.resolve()
    settings = {
        "--locustfile": _LOCUSTFILE,
        "--host": load.url,
        "--scenario": load.scenario.name,
        "--seconds": load.scenario.seconds,
        "--rate": load.rate,
        "--seed": load.seed,
        "--data": load.data.resolve(),
        "--records": records.resolve(),
        "--csv": out / "locust",
        "--html": out / "report.html",
        "--stop-timeout": _STOP_TIMEOUT_S,
        "--loglevel": "WARNING",
    }
    if load.web_port:
        settings |= {"--web-host": "127.0.0.1", "--web-port": load.web_port}
    command = [sys.executable, "-m", "locust", "--autostart" if load.web_port else "--headless", "--only-summary"]
    return command + [str(part) for setting in settings.items() for part in setting]


def _wait(process: subprocess.Popen[bytes], records: Path, watch: Callable[[float, int], None]) -> int:
    """The exit code. Locust never outlives this function."""
    started, calls, position = time.monotonic(), -1, 0  # the first line is the header
    try:
        while True:
            try:
                return process.wait(_POLL_S)
            except subprocess.TimeoutExpired:
                if records.exists():
                    with records.open("rb") as file:
                        file.seek(position)
                        new = file.read()
                    calls, position = calls + new.count(b"\n"), position + len(new)
                watch(time.monotonic() - started, max(calls, 0))
    except KeyboardInterrupt:
        with contextlib.suppress(subprocess.TimeoutExpired):  # Ctrl-C reached Locust as well, which writes its report
            process.wait(2 * _STOP_TIMEOUT_S)
        return INTERRUPTED
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _complaint(code: int, records: Records, log: Path) -> str:
    if code == INTERRUPTED:
        return "it was interrupted"
    if not len(records):
        return "no call was made"
    if code not in {0, _FAILED} or (code == _FAILED and records["good"].all()):
        return f"Locust itself failed with exit code {code}, see {log}"
    return ""
