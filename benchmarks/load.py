"""The load: wrk for many small requests, a plain connection for single large ones.

Every answer without status 200 counts as an error.
"""

from __future__ import annotations

import http.client
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from stress.errors import StressError

__all__ = ["HOST", "Answer", "Calls", "WrkResult", "ask", "parse_wrk", "require_wrk", "run_wrk", "time_calls"]

HOST = "127.0.0.1"
_SCRIPT = Path(__file__).with_name("wrk.lua")
_TIMEOUT_S = 60
_SPARE_S = 30


class WrkResult(msgspec.Struct, frozen=True):
    """The line of JSON that wrk.lua prints."""

    seconds: float
    requests: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    connect_errors: int
    read_errors: int
    write_errors: int
    status_errors: int
    timeouts: int

    @property
    def requests_per_s(self) -> float:
        """Answers per second, of any status."""
        return self.requests / self.seconds

    @property
    def errors(self) -> int:
        """Errors of all kinds."""
        return self.connect_errors + self.read_errors + self.write_errors + self.status_errors + self.timeouts


class Answer(NamedTuple):
    """Status 0 means that there was no answer."""

    status: int
    body: bytes
    seconds: float


class Calls(NamedTuple):
    """Some calls, one after the other."""

    seconds: list[float]
    errors: int


def require_wrk() -> None:
    """Checks that wrk is installed.

    Raises:
        StressError: it is not.
    """
    if shutil.which("wrk") is None:
        raise StressError("wrk, the load generator, is not on the path: install it (Debian: apt-get install wrk)")


def run_wrk(url: str, bodies: Path, *, connections: int, seconds: int) -> WrkResult:
    """Keeps ``connections`` connections busy with the bodies of a file, one per line, in turn.

    Raises:
        StressError: wrk failed or did not end.
    """
    # One thread makes more requests than any of the servers answers, and leaves more of the shared CPUs to the server.
    options = ["--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s"]
    options += ["--timeout", f"{_TIMEOUT_S}s", "--script", str(_SCRIPT)]
    try:
        finished = subprocess.run(
            ["wrk", *options, url, "--", str(bodies)],
            capture_output=True,
            text=True,
            check=True,
            timeout=seconds + _TIMEOUT_S + _SPARE_S,
        )
    except subprocess.CalledProcessError as error:
        raise StressError(f"wrk failed: {error.stderr or error.stdout}") from error
    except subprocess.TimeoutExpired as error:
        raise StressError(f"wrk was still running {_TIMEOUT_S + _SPARE_S} s after its time") from error
    return parse_wrk(finished.stdout)


def parse_wrk(output: str) -> WrkResult:
    """Reads the line of JSON that follows wrk's own output.

    Raises:
        StressError: there is none.
    """
    for line in output.splitlines():
        if line.startswith("{"):
            return msgspec.json.decode(line, type=WrkResult)
    raise StressError(f"wrk printed no result: {output}")


def ask(port: int, path: str, body: bytes, timeout_s: float = _TIMEOUT_S) -> Answer:
    """One POST over a new connection: not every server keeps connections open."""
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout_s)
    start = time.perf_counter()
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return Answer(answer.status, answer.read(), time.perf_counter() - start)
    except (OSError, http.client.HTTPException):
        return Answer(0, b"", time.perf_counter() - start)
    finally:
        connection.close()


def time_calls(port: int, path: str, body: bytes, is_over: Callable[[int], bool]) -> Calls:
    """Repeats a call until ``is_over`` says so, given the number of calls; at least once."""
    seconds: list[float] = []
    errors = 0
    while not seconds or not is_over(len(seconds)):
        answer = ask(port, path, body)
        seconds.append(answer.seconds)
        errors += answer.status != http.client.OK
    return Calls(seconds, errors)
