"""The scenarios that every server goes through once per round, from its launch to its end.

A server has the machine to itself. Its answers are checked before anything is measured.
"""

from __future__ import annotations

import http.client
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import msgspec
import numpy as np

from benchmarks.bodies import Bodies
from benchmarks.load import HOST, WrkResult, ask, run_wrk, time_calls
from benchmarks.machine import Figure, Meter
from benchmarks.processes import ProcessTree, started
from benchmarks.servers import Ports, Server
from serve_app.config import PROJECT_ROOT
from stress.errors import StressError

__all__ = ["CALLS", "IDLE", "LOADS", "MEMORY", "MIXED", "OWN_CALLS", "START", "Call", "Load", "Pace", "run_round"]

_START_TIMEOUT_S = 180
_PROBE_TIMEOUT_S = 2
_CHECK_TIMEOUT_S = 120
_POLL_INTERVAL_S = 0.02
_REFUSALS = {400, 405, 413, 415, 422}  # the server has started and rejects the request; 404 and 503 may pass
_MEMORY_INTERVAL_S = 0.01
_SETTLE_S = 1.0
_WARM_UP_S = 1
_ENOUGH_PER_CONNECTION = 5
_MORE_TIME = 3
_SINGLE_ROWS_CHECKED = 20
_ROWS_CHECKED = 10_000
_MAX_CALLS = 1000
_TOLERANCE = 1e-9  # another order of summation may change the last bits of a probability


class Load(NamedTuple):
    """Many requests over some connections, each sent as soon as the previous one is answered."""

    rows: int
    connections: int

    @property
    def name(self) -> str:
        """As in the results."""
        return f"rows{self.rows}_connections{self.connections}"


class Call(NamedTuple):
    """One request at a time."""

    rows: int

    @property
    def name(self) -> str:
        """As in the results."""
        return f"call_{self.rows}"


class Pace(NamedTuple):
    """The duration of each load in whole seconds, for wrk, and the least number of large calls."""

    seconds: int
    calls: int


START, IDLE, MIXED, MEMORY = "start", "idle", "mixed", "memory"
LOADS = (Load(1, 1), Load(1, 16), Load(1, 64), Load(100, 4))
CALLS = (Call(10_000),)
OWN_CALLS = (Call(100), Call(1_000), Call(100_000))  # with CALLS, the cost of a row by the size of its request
_MIXED_LOAD, _MIXED_CALL, _MEMORY_CALL = Load(1, 16), Call(10_000), Call(100_000)


def run_round(server: Server, bodies: Bodies, ports: Ports, pace: Pace) -> Iterator[tuple[str, Figure]]:
    """Starts the server, measures every scenario and stops the server: the name and figure of each, as they come.

    Args:
        server: the server.
        bodies: in its format; the server's own files go to the same folder.
        ports: for its use.
        pace: the durations.

    Raises:
        StressError: the server does not start, ends, or gives no or wrong answers.
    """
    with socket.socket() as probe:
        if probe.connect_ex((HOST, ports.http)) == 0:
            raise StressError(f"port {ports.http} is in use: choose another with --port")
    launch = server.launch(ports, bodies.folder)
    began = time.perf_counter()
    with started(launch.command, launch.environment, PROJECT_ROOT, bodies.folder / f"{server.name}.log") as tree:
        subject = _Subject(bodies, ports.http, pace, tree)
        yield START, subject.measure_start(began)
        yield IDLE, subject.measure_idle()
        subject.check_answers()
        subject.warm_up()
        if server.is_ours:
            yield MEMORY, subject.measure_memory(_MEMORY_CALL)  # before other large calls have grown the processes
        for load in LOADS:
            yield load.name, subject.measure_load(load)
        for one in (*CALLS, *(OWN_CALLS if server.is_ours else ())):
            yield one.name, subject.measure_call(one)
        yield MIXED, subject.measure_mixed(_MIXED_LOAD, _MIXED_CALL)


class _Subject:
    """The server that runs, and how to ask it."""

    def __init__(self, bodies: Bodies, port: int, pace: Pace, tree: ProcessTree) -> None:
        self._bodies = bodies
        self._pace = pace
        self._tree = tree
        self._port, self._path = self._address = (port, bodies.format.path)
        self._idle_mb: dict[int, float] = {}

    def measure_start(self, began: float) -> Figure:
        """The time from ``began`` until the first row is answered."""
        body = self._bodies.one(1)
        with Meter(self._tree) as meter:
            # A request that is held too long is given up and sent again.
            while (answer := ask(*self._address, body, _PROBE_TIMEOUT_S)).status != http.client.OK:
                self._tree.require_alive()
                if answer.status in _REFUSALS:
                    raise StressError(f"status {answer.status} for the first row: {answer.body[:300]!r}")
                if time.perf_counter() > began + _START_TIMEOUT_S:
                    raise StressError(f"no answer after {_START_TIMEOUT_S} s:\n{self._tree.last_output()}")
                time.sleep(_POLL_INTERVAL_S)
            seconds = time.perf_counter() - began
        return {"seconds": seconds, **meter.shares()}

    def measure_idle(self) -> Figure:
        """The memory of the tree before it has done anything."""
        time.sleep(_SETTLE_S)
        self._idle_mb = self._tree.resident_mb()
        return {"memory_mb": self._tree.memory_mb()}

    def check_answers(self) -> None:
        """Compares the answers to single rows, to a hundred and to all of them with the expected ones.

        Raises:
            StressError: an answer is wrong.
        """
        rows, expected = self._bodies.rows[:_ROWS_CHECKED], self._bodies.expected
        for start, end in (*((row, row + 1) for row in range(_SINGLE_ROWS_CHECKED)), (0, 100), (0, len(rows))):
            status, answer, _ = ask(*self._address, self._bodies.format.encode(rows[start:end]), _CHECK_TIMEOUT_S)
            if status != http.client.OK:
                raise StressError(f"status {status} for rows {start} to {end - 1}: {answer[:300]!r}")
            try:
                found = np.array(self._bodies.format.read_probabilities(answer))
            except (ValueError, msgspec.MsgspecError) as error:
                raise StressError(f"an answer that cannot be read: {error}: {answer[:300]!r}") from error
            if found.shape != expected[start:end].shape:
                raise StressError(f"{len(found)} answers to {end - start} rows")
            differences = np.abs(found - expected[start:end])
            if not (differences <= _TOLERANCE).all():
                worst = int(differences.argmax())
                raise StressError(f"row {start + worst}: {found[worst]} instead of {expected[start + worst]}")

    def warm_up(self) -> None:
        """Sends requests that are not measured: the first ones may be slower."""
        self._run(Load(1, 16), _WARM_UP_S)

    def measure_load(self, load: Load) -> Figure:
        """Rate, latencies and CPU time per request."""
        result, meter = self._run(load, self._pace.seconds)
        if result.requests < _ENOUGH_PER_CONNECTION * load.connections:
            # Unfinished requests at the end are not counted; for a slow server they would be too large a part.
            result, meter = self._run(load, _MORE_TIME * self._pace.seconds)
        return {
            **_latencies(result),
            "cpu_ms_per_request": 1e3 * meter.server_cpu_s / max(1, result.requests),
            "requests": result.requests,
            "errors": result.errors,
            **meter.shares(),
        }

    def _run(self, load: Load, seconds: int) -> tuple[WrkResult, Meter]:
        url = f"http://{HOST}:{self._port}{self._path}"
        with Meter(self._tree) as meter:
            result = run_wrk(url, self._bodies.file(load.rows), connections=load.connections, seconds=seconds)
        return result, meter

    def measure_call(self, one: Call) -> Figure:
        """The median time of a call, and of a row of it."""
        body = self._bodies.one(one.rows)
        until = time.monotonic() + self._pace.seconds

        def is_over(count: int) -> bool:
            return count >= self._pace.calls and (time.monotonic() >= until or count >= _MAX_CALLS)

        with Meter(self._tree) as meter:
            calls = time_calls(*self._address, body, is_over)
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
        """The load once more, while another client keeps sending large calls."""
        body = self._bodies.one(one.rows)
        is_over = threading.Event()
        with Meter(self._tree) as meter, ThreadPoolExecutor(max_workers=1) as clients:
            large = clients.submit(time_calls, *self._address, body, lambda _: is_over.is_set())
            try:
                time.sleep(_SETTLE_S / 4)  # the first large call has begun
                result, _ = self._run(load, self._pace.seconds)
            finally:
                is_over.set()
        calls = large.result()
        return {
            **_latencies(result),
            "large_call_seconds": statistics.median(calls.seconds),
            "large_calls": len(calls.seconds),
            "requests": result.requests,
            "errors": result.errors + calls.errors,
            **meter.shares(),
        }

    def measure_memory(self, one: Call) -> Figure:
        """The growth of the tree's processes during one call, compared with the size of the call's body.

        A process that has shrunk or ended since is not set off against the growth of others.
        """
        body = self._bodies.one(one.rows)
        growth = 0.0
        with ThreadPoolExecutor(max_workers=1) as clients:
            answer = clients.submit(ask, *self._address, body)
            while not answer.done():
                time.sleep(_MEMORY_INTERVAL_S)
                now = self._tree.resident_mb()
                growth = max(growth, sum(max(0.0, resident - self._idle_mb.get(pid, 0.0)) for pid, resident in now.items()))
        body_mb = len(body) / 1e6
        errors = int(answer.result().status != http.client.OK)
        return {"growth_mb": growth, "body_mb": body_mb, "growth_per_body": growth / body_mb, "errors": errors}


def _latencies(result: WrkResult) -> Figure:
    return {"requests_per_s": result.requests_per_s, "p50_ms": result.p50_ms, "p99_ms": result.p99_ms}
