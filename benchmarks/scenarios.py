"""What every server goes through, in order, once per round: from its launch to its end.

A server has the machine to itself. Its answers are checked before anything is measured; a figure with errors is no
figure.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from benchmarks.bodies import Bodies
from benchmarks.errors import BenchmarkError
from benchmarks.load import RepeatedCalls, WrkResult, call, run_wrk, time_calls
from benchmarks.meter import Figure, Meter
from benchmarks.processes import ProcessTree, started
from benchmarks.servers import Ports, Server
from serve_app.config import PROJECT_ROOT

__all__ = ["CALLS", "IDLE", "LOADS", "MEMORY", "MIXED", "OWN_CALLS", "START", "Call", "Load", "Pace", "run_round"]

_HOST = "127.0.0.1"
_START_TIMEOUT_S = 180
_PROBE_TIMEOUT_S = 2
_ANSWER_TIMEOUT_S = 120
_POLL_INTERVAL_S = 0.02
_REFUSALS = {400, 405, 413, 415, 422}  # the server is up and does not like the request; 404 and 503 may pass
_MEMORY_INTERVAL_S = 0.01
_SETTLE_S = 1.0
_WARM_UP_S = 1
_ENOUGH_PER_CONNECTION = 5
_MORE_TIME = 3
_SINGLE_ROWS_CHECKED = 20
_TOLERANCE = 1e-9  # another order of summation may change the last bits of a probability, and no more


@dataclass(frozen=True)
class Load:
    """Many requests over some connections, each sent as soon as the one before is answered."""

    rows: int
    connections: int

    @property
    def name(self) -> str:
        """As in the results."""
        return f"rows{self.rows}_connections{self.connections}"


@dataclass(frozen=True)
class Call:
    """One request at a time."""

    rows: int

    @property
    def name(self) -> str:
        """As in the results."""
        return f"call_{self.rows}"


@dataclass(frozen=True)
class Pace:
    """How long things take.

    Args:
        seconds: of each load; a whole number, as wrk wants it.
        calls: at least so many of a large request.
    """

    seconds: int
    calls: int


START, IDLE, MIXED, MEMORY = "start", "idle", "mixed", "memory"
LOADS = (Load(1, 1), Load(1, 16), Load(1, 64), Load(100, 4))
CALLS = (Call(10_000),)
OWN_CALLS = (Call(100), Call(1_000), Call(100_000))  # with CALLS, what a row costs by the size of its request
_MIXED_LOAD, _MIXED_CALL, _MEMORY_CALL = Load(1, 16), Call(10_000), Call(100_000)


def run_round(server: Server, bodies: Bodies, ports: Ports, pace: Pace) -> Iterator[tuple[str, Figure]]:
    """Starts the server, takes it through every scenario and stops it: name and figure of each, as they come.

    Args:
        server: which.
        bodies: in its format; its own files go where theirs are.
        ports: for it to use.
        pace: how long.

    Raises:
        BenchmarkError: it does not start, ends, answers wrongly or not at all.
    """
    _require_free(ports.http)
    launch = server.launch(ports, bodies.folder)
    began = time.perf_counter()
    with started(launch.command, launch.environment, PROJECT_ROOT, bodies.folder / f"{server.name}.log") as tree:
        subject = _Subject(bodies, ports.http, pace, tree)
        yield START, subject.measure_start(began)
        yield IDLE, subject.measure_idle()
        subject.check_answers()
        subject.warm_up()
        if server.is_ours:
            yield MEMORY, subject.measure_memory(_MEMORY_CALL)  # before other large calls have left their memory behind
        for load in LOADS:
            yield load.name, subject.measure_load(load)
        for one in (*CALLS, *(OWN_CALLS if server.is_ours else ())):
            yield one.name, subject.measure_call(one)
        yield MIXED, subject.measure_mixed(_MIXED_LOAD, _MIXED_CALL)


class _Subject:
    """The server that runs, and how to ask it."""

    def __init__(self, bodies: Bodies, port: int, pace: Pace, tree: ProcessTree) -> None:
        self._bodies = bodies
        self._port = port
        self._pace = pace
        self._tree = tree
        self._path = bodies.format.path
        self._idle_mb: dict[int, float] = {}
        self._url = f"http://{_HOST}:{port}{self._path}"

    def measure_start(self, began: float) -> Figure:
        """From ``began`` until the first row is answered."""
        body = self._bodies.one(1)
        with Meter(self._tree) as meter:
            # Whoever waits for a start gives up a request that is held for long, and asks again.
            while (answer := self._ask(body, timeout_s=_PROBE_TIMEOUT_S))[0] != http.client.OK:
                self._tree.require_alive()
                if answer[0] in _REFUSALS:
                    raise BenchmarkError(f"status {answer[0]} for the first row: {answer[1][:300]!r}")
                if time.perf_counter() > began + _START_TIMEOUT_S:
                    raise BenchmarkError(f"no answer after {_START_TIMEOUT_S} s:\n{self._tree.last_output()}")
                time.sleep(_POLL_INTERVAL_S)
            seconds = time.perf_counter() - began
        return {"seconds": seconds, **meter.shares()}

    def measure_idle(self) -> Figure:
        """Memory of the tree before it has done anything."""
        time.sleep(_SETTLE_S)
        self._idle_mb = self._tree.resident_mb()
        return {"memory_mb": self._tree.memory_mb()}

    def check_answers(self) -> None:
        """Compares the answers to single rows, a hundred and all of them with what they must be.

        Raises:
            BenchmarkError: one is wrong.
        """
        rows, expected = self._bodies.dataset.rows, self._bodies.dataset.expected
        for start, end in (*((row, row + 1) for row in range(_SINGLE_ROWS_CHECKED)), (0, 100), (0, len(rows))):
            status, answer = self._ask(self._bodies.format.encode(rows[start:end]))
            if status != http.client.OK:
                raise BenchmarkError(f"status {status} for rows {start} to {end - 1}: {answer[:300]!r}")
            try:
                found = np.array(self._bodies.format.read_probabilities(answer))
            except (ValueError, KeyError, TypeError) as error:
                raise BenchmarkError(f"an answer that cannot be read: {error}: {answer[:300]!r}") from error
            if found.shape != expected[start:end].shape:
                raise BenchmarkError(f"{len(found)} answers to {end - start} rows")
            differences = np.abs(found - expected[start:end])
            if not (differences <= _TOLERANCE).all():
                worst = int(differences.argmax())
                raise BenchmarkError(f"row {start + worst}: {found[worst]} instead of {expected[start + worst]}")

    def warm_up(self) -> None:
        """What only the first requests have to do is not measured."""
        run_wrk(self._url, self._bodies.file(1), connections=16, seconds=_WARM_UP_S)

    def measure_load(self, load: Load) -> Figure:
        """Answers a second, latencies, CPU time per request."""
        meter, result = self._run(load, self._pace.seconds)
        if result.requests < _ENOUGH_PER_CONNECTION * load.connections:
            # What is under way when the time is over is not counted: of a slow server that would be too large a part.
            meter, result = self._run(load, _MORE_TIME * self._pace.seconds)
        return {
            "requests_per_s": result.requests_per_s,
            "p50_ms": result.p50_ms,
            "p99_ms": result.p99_ms,
            "cpu_ms_per_request": 1e3 * meter.server_cpu_s / max(1, result.requests),
            "requests": result.requests,
            "errors": result.errors,
            **meter.shares(),
        }

    def _run(self, load: Load, seconds: int) -> tuple[Meter, WrkResult]:
        with Meter(self._tree) as meter:
            result = run_wrk(self._url, self._bodies.file(load.rows), connections=load.connections, seconds=seconds)
        return meter, result

    def measure_call(self, one: Call) -> Figure:
        """The median time of a call, and of a row of it."""
        body = self._bodies.one(one.rows)
        with Meter(self._tree) as meter:
            calls = time_calls(self._port, self._path, body, seconds=self._pace.seconds, at_least=self._pace.calls)
        seconds = statistics.median(calls.seconds)
        return {
            "seconds": seconds,
            "us_per_row": 1e6 * seconds / one.rows,
            "cpu_ms_per_request": 1e3 * meter.server_cpu_s / len(calls.seconds),
            "requests": len(calls.seconds),
            "errors": calls.errors,
            **meter.shares(),
        }

    def measure_mixed(self, load: Load, one: Call) -> Figure:
        """The load once more, while one client keeps sending large calls."""
        body = self._bodies.one(one.rows)
        with Meter(self._tree) as meter, RepeatedCalls(self._port, self._path, body) as large:
            time.sleep(_SETTLE_S / 4)  # so that the first large call is under way
            result = run_wrk(self._url, self._bodies.file(load.rows), connections=load.connections, seconds=self._pace.seconds)
        return {
            "requests_per_s": result.requests_per_s,
            "p50_ms": result.p50_ms,
            "p99_ms": result.p99_ms,
            "large_call_seconds": statistics.median(large.calls.seconds),
            "large_calls": len(large.calls.seconds),
            "requests": result.requests,
            "errors": result.errors + large.calls.errors,
            **meter.shares(),
        }

    def measure_memory(self, one: Call) -> Figure:
        """By how much the processes of the tree are larger during one call than idle, compared with the call's body.

        A process that has shrunk or ended since is not set off against what others take.
        """
        body = self._bodies.one(one.rows)
        growth = 0.0
        with ThreadPoolExecutor(max_workers=1) as clients:
            asked = clients.submit(time_calls, self._port, self._path, body, seconds=0, at_least=1)
            while not asked.done():
                time.sleep(_MEMORY_INTERVAL_S)
                now = self._tree.resident_mb()
                growth = max(growth, sum(max(0.0, resident - self._idle_mb.get(pid, 0.0)) for pid, resident in now.items()))
        body_mb = len(body) / 1e6
        errors = asked.result().errors
        return {"growth_mb": growth, "body_mb": body_mb, "growth_per_body": growth / body_mb, "errors": errors}

    def _ask(self, body: bytes, timeout_s: float = _ANSWER_TIMEOUT_S) -> tuple[int, bytes]:
        """Status and body of an answer; status 0 where there is none."""
        connection = http.client.HTTPConnection(_HOST, self._port, timeout=timeout_s)
        try:
            return call(connection, self._path, body)
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()


def _require_free(port: int) -> None:
    with contextlib.suppress(OSError), socket.create_connection((_HOST, port), timeout=1):
        raise BenchmarkError(f"port {port} is in use: choose another with --port")
