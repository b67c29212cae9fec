"""What asks: wrk for many small requests, one plain connection for single large ones.

Owns the command line of wrk and the reading of its answer; counts whatever is not answered with status 200 as an error.
"""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

from benchmarks.errors import BenchmarkError

__all__ = ["Calls", "RepeatedCalls", "WrkResult", "call", "parse_wrk", "require_wrk", "run_wrk", "time_calls"]

_SCRIPT = Path(__file__).with_name("wrk.lua")
_TIMEOUT_S = 60
_SPARE_S = 30
_MAX_CALLS = 1000


class WrkResult(NamedTuple):
    """What one run of wrk measured."""

    seconds: float
    requests: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    errors: int

    @property
    def requests_per_s(self) -> float:
        """Answers a second, of whatever status."""
        return self.requests / self.seconds


class Calls(NamedTuple):
    """Some large calls, one after the other."""

    seconds: Sequence[float]
    errors: int


def require_wrk() -> None:
    """Makes sure that wrk is there.

    Raises:
        BenchmarkError: it is not.
    """
    if shutil.which("wrk") is None:
        raise BenchmarkError("wrk, which makes the load, is not on the path: install it (Debian: apt-get install wrk)")


def run_wrk(url: str, bodies: Path, *, connections: int, seconds: int) -> WrkResult:
    """Keeps ``connections`` connections busy with the bodies of a file, one per line, in turn.

    Raises:
        BenchmarkError: wrk did not come to an end.
    """
    # One thread: it makes more requests than any of the servers answers, and takes less of the CPUs that both share.
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
        raise BenchmarkError(f"wrk failed: {error.stderr or error.stdout}") from error
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"wrk was still running {_TIMEOUT_S + _SPARE_S} s after its time") from error
    return parse_wrk(finished.stdout)


def parse_wrk(output: str) -> WrkResult:
    """The line of JSON that wrk.lua printed, behind wrk's own words.

    Raises:
        BenchmarkError: there is none.
    """
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            found = json.loads(line)
            errors = sum(value for name, value in found.items() if name.endswith("_errors") or name == "timeouts")
            return WrkResult(
                seconds=found["seconds"],
                requests=found["requests"],
                p50_ms=found["p50_ms"],
                p99_ms=found["p99_ms"],
                max_ms=found["max_ms"],
                errors=errors,
            )
    raise BenchmarkError(f"wrk printed no result: {output}")


def call(connection: http.client.HTTPConnection, path: str, body: bytes) -> tuple[int, bytes]:
    """Status and body of one answer."""
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, answer.read()


def time_calls(port: int, path: str, body: bytes, *, seconds: float, at_least: int) -> Calls:
    """The same call again and again, for about ``seconds``."""
    times: list[float] = []
    errors = 0
    until = time.monotonic() + seconds
    while len(times) < at_least or (time.monotonic() < until and len(times) < _MAX_CALLS):
        # A new connection each time: not every server keeps one open, and a handshake is nothing beside such a call.
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
        start = time.perf_counter()
        try:
            status, _ = call(connection, path, body)
        except (OSError, http.client.HTTPException):
            status = 0
        finally:
            connection.close()
        times.append(time.perf_counter() - start)
        errors += status != 200
    return Calls(times, errors)


class RepeatedCalls:
    """A client in the background that sends a large call as soon as the one before is answered.

    Use as a context; ``calls`` holds what it did once the block is left.
    """

    def __init__(self, port: int, path: str, body: bytes) -> None:
        self._target = (port, path, body)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self.calls = Calls((), 0)

    def __enter__(self) -> Self:
        """Begins."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends, when the call under way is answered."""
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._over.is_set():
            done = time_calls(*self._target, seconds=0, at_least=1)
            self.calls = Calls((*self.calls.seconds, *done.seconds), self.calls.errors + done.errors)
