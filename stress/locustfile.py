"""What Locust runs. ``python -m stress run`` starts it; Locust's own command works too, in the project's folder:

    locust -f stress/locustfile.py --host http://127.0.0.1:1313 --scenario mixed

Importing Locust patches the standard library for gevent, so only a process of Locust's own may import this module.
"""

from __future__ import annotations

import gc
import logging
import signal
import time
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import gevent
from gevent.pool import Pool
from locust import FastHttpUser, LoadTestShape, events, stats, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

from stress.calls import Call, CallMaker
from stress.dataset import load_dataset
from stress.errors import StressError, WrongAnswerError
from stress.records import RecordWriter
from stress.runs import INTERRUPTED
from stress.scenarios import SCENARIOS, Scenario
from stress.service import read_service, require_expected_model

_MAX_OPEN_CALLS = 512  # of an open load; further calls wait, and their latency includes the wait
_DRAIN_S = 8.0  # for the last calls of an open load; less than Locust's --stop-timeout
_REST_AFTER_LOSS_S = 0.1  # limits the calls to a dead service
_SPAWN_RATE = 100.0  # users per second: a stage begins almost at once
_MAX_DISTINCT_FAILURES = 50  # Locust keeps each different message for its report

stats.HISTORY_STATS_INTERVAL_SEC = 1  # a point per second in the report's charts
stats.PERCENTILES_TO_CHART = [0.5, 0.95, 0.99]


class _Run:
    """The state that all users share, created when a test starts.

    Args:
        options: Locust's parsed options.
        host: URL of the service.
    """

    def __init__(self, options: Any, host: str) -> None:
        self.scenario = chosen_scenario(options)
        self.rate: float = options.rate
        self.seed: int = options.seed
        self.dataset = load_dataset(Path(options.data))
        self.served = read_service(host)
        require_expected_model(host, self.served, self.dataset)
        self.records = RecordWriter(Path(options.records)) if options.records else None
        self.users = 0
        self.started = time.perf_counter()
        self._failures: set[str] = set()

    def maker(self) -> CallMaker:
        """The calls of one more user, who draws independently of the others."""
        self.users += 1
        random = Random(f"{self.seed}/{self.users}")
        return CallMaker(self.dataset, self.served, self.scenario.batch_rows, self.scenario.mix, random)

    def limited(self, failure: str) -> str:
        """A failure's message, or a general one if there are too many different messages."""
        if failure not in self._failures and len(self._failures) >= _MAX_DISTINCT_FAILURES:
            return "a further failure, see requests.csv"
        self._failures.add(failure)
        return failure


_run: _Run | None = None


def chosen_scenario(options: Any) -> Scenario:
    """The scenario that Locust's options name, with their duration."""
    return SCENARIOS[options.scenario].lasting(options.seconds)


@events.init_command_line_parser.add_listener
def add_options(parser: LocustArgumentParser) -> None:
    """Adds our options to Locust's."""
    group = parser.add_argument_group("Stress", "Options of stress/locustfile.py")
    group.add_argument("--scenario", choices=list(SCENARIOS), default="mixed", help="See stress/README.md")
    group.add_argument("--seconds", type=float, default=0.0, help="Duration; 0: the scenario's own")
    group.add_argument("--rate", type=float, default=0.0, help="Calls per second that wait for no answer; 0: users do")
    group.add_argument("--seed", type=int, default=26)
    group.add_argument("--data", default="data", help="Folder of test.json and expected.json")
    group.add_argument("--records", default="", help="File to write a line per call to")


@events.init.add_listener
def end_on_ctrl_c(environment: Environment, **_: Any) -> None:
    """Makes Ctrl-C end the run in order; as an exception it would hit an arbitrary user."""

    def end() -> None:
        environment.process_exit_code = INTERRUPTED
        ScenarioShape.is_over = True  # read at its next tick, within a second
        if environment.web_ui is not None:
            while environment.runner is not None and environment.runner.shape_greenlet is not None:
                gevent.sleep(0.1)
            environment.web_ui.stop()

    gevent.signal_handler(signal.SIGINT, end)


@events.test_start.add_listener
def start_run(environment: Environment, **_: Any) -> None:
    """Reads the rows and asks the service for its model before the first call."""
    global _run  # noqa: PLW0603 - Locust creates the users; this is how they find their shared state
    try:
        _run = _Run(environment.parsed_options, str(environment.host).rstrip("/"))
    except StressError as error:
        logging.getLogger("stress").critical("%s", error)
        raise SystemExit(1) from error
    gc.collect()
    gc.freeze()  # rows and expected answers stay: collecting them again and again would delay calls


@events.test_stop.add_listener
def stop_run(**_: Any) -> None:
    """Flushes the records."""
    if _run is not None and _run.records is not None:
        _run.records.close()


@events.quitting.add_listener
def await_tables(environment: Environment, **_: Any) -> None:
    """Lets Locust write its CSV tables once more: it does so every second, but not at the end."""
    if environment.parsed_options is not None and environment.parsed_options.csv_prefix:
        gevent.sleep(stats.CSV_STATS_INTERVAL_SEC + 0.1)


class ScenarioShape(LoadTestShape):
    """The number of users over time; an open load needs only one, who does not wait."""

    is_over: ClassVar[bool] = False

    def tick(self) -> tuple[int, float] | None:
        """Users and the rate at which they come and go; None at the end."""
        assert self.runner is not None  # noqa: S101
        options: Any = self.runner.environment.parsed_options
        users = chosen_scenario(options).users_at(self.get_run_time())
        if users is None or self.is_over:
            return None
        return (1 if options.rate else users), _SPAWN_RATE


class Caller(FastHttpUser):
    """Makes the scenario's calls: one after the other, or, with a rate, when they are due."""

    connection_timeout = 10.0
    network_timeout = 120.0
    concurrency = _MAX_OPEN_CALLS
    _is_ending = False

    def on_start(self) -> None:
        """Prepares this user."""
        assert _run is not None  # noqa: S101 - Locust starts no user before test_start
        self._run = _run
        self._maker = self._run.maker()
        # Our checks judge the status; the client must not raise an exception for it.
        self.client.client.valid_response_codes = frozenset(range(100, 600))  # type: ignore[misc]
        self._arrivals = Random(f"{self._run.seed}/arrivals")
        self._due = time.perf_counter()
        self._open_calls = Pool()

    @task
    def make_calls(self) -> None:
        """All calls of this user. A single task, because Locust may kill a user between two tasks."""
        while not self._is_ending:
            if self._run.rate:
                self._await_arrival()
                self._open_calls.spawn(self._make, self._maker.next_call(), self._due)
            else:
                self._make(self._maker.next_call(), time.perf_counter())
                gevent.sleep(self._run.scenario.pause_s)

    def _await_arrival(self) -> None:
        """Waits for the next event of a Poisson process: gaps are exponential and independent of earlier calls.

        Each call of an open load has a greenlet of its own, and its latency counts from when it was due, so that neither a
        slow service nor a slow generator is hidden.
        """
        self._due += self._arrivals.expovariate(self._run.rate)
        gevent.sleep(max(0.0, self._due - time.perf_counter()))

    def stop(self, force: bool = False) -> bool:
        """Makes the user end after its present call."""
        self._is_ending = True
        return bool(super().stop(force))

    def on_stop(self) -> None:
        """Waits for the last calls; those without an answer by then have failed."""
        self._open_calls.join(timeout=_DRAIN_S)
        self._open_calls.kill()

    def _make(self, call: Call, due: float) -> None:
        note = partial(self._note, call, due, late_ms=(time.perf_counter() - due) * 1000)
        try:
            body: Any = call.body  # Locust's types ask for str, which it would only encode
            with self.client.post(call.path, name=call.kind, data=body, catch_response=True) as response:
                ms = response.request_meta["response_time"] = (time.perf_counter() - due) * 1000  # from when it was due
                failure = _judge(call, response)
                if failure:
                    response.failure(self._run.limited(failure))
                else:
                    response.success()
        except gevent.GreenletExit:
            note(ms=(time.perf_counter() - due) * 1000, status=0, failure="no answer before the end")
            raise
        note(ms=ms, status=response.status_code, failure=failure)
        if response.status_code == 0:
            gevent.sleep(_REST_AFTER_LOSS_S)

    def _note(self, call: Call, due: float, **outcome: Any) -> None:
        if self._run.records is not None:
            self._run.records.write(due_s=due - self._run.started, kind=call.kind, rows=len(call.rows), **outcome)


def _judge(call: Call, response: Any) -> str:
    """Why an answer is wrong, or an empty string."""
    if response.status_code == 0:
        return f"no answer: {type(response.error).__name__}"
    try:
        call.check(response.status_code, response.content or b"")
    except WrongAnswerError as error:
        return str(error)
    return ""
