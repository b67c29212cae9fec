"""The curl scripts: calls made by curl, each answer compared with the expected one and logged.

One curl process makes a thousand or so calls in parallel. Its config file holds a request per call, and its ``write-out``
prints a line per call: number, HTTP status, seconds, error.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import IO, Any, NamedTuple

import click
import msgspec
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from stress.calls import BATCH, ONE_ROW, WHOLE_FILE, Call, CallMaker
from stress.dataset import PROJECT_ROOT
from stress.errors import StressError, WrongAnswerError
from stress.options import PATH, data_option, seed_option, url_option
from stress.service import prepare

__all__ = ["Tally", "curl", "parts", "write_part"]

EACH_ROW = "each row"

_CALLS_PER_PART = 1000
_ROWS_PER_PART = 50_000  # about 85 MB of bodies
_MAX_TIME_S = 120
_LOGGED_BYTES = 1000
_LOG_COLUMNS = ("call", "rows", "status", "seconds", "verdict", "answer")
_console = Console(stderr=True, highlight=False, soft_wrap=True)


def parts(calls: Iterable[Call]) -> Iterator[list[Call]]:
    """Divides calls among curl processes: no more of each than one process should hold in memory."""
    part: list[Call] = []
    rows = 0
    for call in calls:
        if part and (len(part) == _CALLS_PER_PART or rows + len(call.rows) > _ROWS_PER_PART):
            yield part
            part, rows = [], 0
        part.append(call)
        rows += len(call.rows)
    yield part


def write_part(url: str, calls: Sequence[Call], folder: Path) -> Path:
    """Writes the bodies of some calls to ``folder``, and curl's config file, which is returned."""
    requests = []
    for number, call in enumerate(calls):
        body = folder / f"{number}.json"
        body.write_bytes(call.body)
        requests.append(
            f"url = {_quoted(f'{url}{call.path}')}\n"
            "globoff\n"
            'header = "Content-Type: application/json"\n'
            f"data-binary = {_quoted(f'@{body}')}\n"
            f"output = {_quoted(str(folder / f'{number}.answer'))}\n"
            f'write-out = "{number}\\t%{{http_code}}\\t%{{time_total}}\\t%{{errormsg}}\\n"\n'
            f"max-time = {_MAX_TIME_S}\n"
        )
    config = folder / "calls.curl"
    config.write_text("next\n".join(requests), encoding="utf-8")
    return config


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class _Outcome(NamedTuple):
    """What curl says of one call."""

    status: int
    seconds: float
    error: str
    answer: bytes


class Tally:
    """Compares the answers that curl received with the expected ones, and logs a line per call."""

    def __init__(self, log: IO[str]) -> None:
        self._log = log
        self.seconds: list[float] = []
        self.failures: list[str] = []
        log.write("\t".join(_LOG_COLUMNS) + "\n")

    def read(self, lines: Iterable[str], calls: Sequence[Call], folder: Path, advance: Callable[[], None]) -> None:
        """Reads curl's lines for some calls whose answers are in ``folder``; a call without a line has failed."""
        first = len(self.seconds) + len(self.failures)
        missing = dict(enumerate(calls))
        for line in lines:
            index, status, seconds, error = line.rstrip("\n").split("\t")
            number = int(index)
            path = folder / f"{number}.answer"
            answer = path.read_bytes() if path.exists() else b""  # curl writes no file without an answer
            path.unlink(missing_ok=True)
            call = missing.pop(number)
            self._judge(first + number, call, _Outcome(int(status), float(seconds), error, answer))
            advance()
        for number, call in missing.items():
            self._judge(first + number, call, _Outcome(0, 0.0, "curl did not come to it", b""))

    def _judge(self, number: int, call: Call, outcome: _Outcome) -> None:
        verdict = "ok"
        try:
            if outcome.error:
                raise WrongAnswerError(outcome.error)  # noqa: TRY301
            call.check(outcome.status, outcome.answer)
            self.seconds.append(outcome.seconds)
        except WrongAnswerError as failure:
            verdict = f"FAILED: {failure}"
            self.failures.append(f"call {number}: {failure}")
        rows = str(call.rows[0]) if len(call.rows) == 1 else f"{len(call.rows)} rows"
        excerpt = outcome.answer[:_LOGGED_BYTES].decode("utf-8", "replace").replace("\n", " ").replace("\t", " ")
        excerpt += f"... ({len(outcome.answer)} bytes)" if len(outcome.answer) > _LOGGED_BYTES else ""
        cells = (str(number), rows, str(outcome.status), f"{outcome.seconds:.6f}", verdict, excerpt)
        self._log.write("\t".join(cells) + "\n")

    def sentence(self, took_s: float) -> str:
        """The number of good and failed calls, the total time and the latency."""
        latency = ""
        if self.seconds:
            p50, p99 = np.percentile(self.seconds, (50, 99)) * 1000
            latency = f", p50 {p50:.1f} ms, p99 {p99:.1f} ms"
        return f"{len(self.seconds):,} ok, {len(self.failures):,} failed in {took_s:.1f} s{latency}"


class _Options(msgspec.Struct, frozen=True):
    """The options that all scripts have."""

    url: str
    calls: int
    concurrency: int
    seed: int
    data: Path
    log: Path


def _run(kind: str, options: _Options, batch_rows: tuple[int, int] = (1, 1)) -> None:
    """Makes all calls and exits, with 1 if one failed."""
    dataset, served = prepare([options.url], options.data, _console.print)
    maker = CallMaker(dataset, served, batch_rows, {kind: 1}, Random(options.seed))
    in_order = (maker.scored(EACH_ROW, [number % len(dataset.rows)]) for number in range(options.calls))
    calls = in_order if kind == EACH_ROW else (maker.next_call() for _ in range(options.calls))
    options.log.parent.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    started = time.perf_counter()
    with options.log.open("w", encoding="utf-8") as log, Progress(*columns, console=_console) as progress:
        tally = Tally(log)
        task = progress.add_task("calls", total=options.calls)
        for part in parts(calls):
            with tempfile.TemporaryDirectory(prefix="stress-") as name:
                config = write_part(options.url, part, Path(name))
                with _started(config, options.concurrency) as process:
                    tally.read(process.stdout or (), part, Path(name), lambda: progress.advance(task))
    took_s = time.perf_counter() - started
    for failure in tally.failures[:10]:
        _console.print(failure, style="red", markup=False)
    click.echo(f"{tally.sentence(took_s)}; a line of each in {options.log}")
    sys.exit(int(bool(tally.failures)))


def _started(config: Path, concurrency: int) -> subprocess.Popen[str]:
    command = ["curl", "--no-progress-meter", "--parallel", "--parallel-max", str(concurrency), "--config", str(config)]
    try:
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    except FileNotFoundError:
        raise StressError("curl is not on the path: install it") from None


@click.group()
def curl() -> None:
    """Make the calls of one of the curl scripts."""


def _script_options(calls: int, log: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds the options that all scripts have, with a script's defaults."""
    log_file = PROJECT_ROOT / "stress" / "reports" / log
    options = (
        url_option,
        click.option("--calls", type=click.IntRange(min=1), default=calls, show_default=f"{calls:,}", help="Number of calls."),
        click.option("--concurrency", type=click.IntRange(1, 300), default=16, show_default=True, help="Calls at a time."),
        seed_option,
        data_option,
        click.option("--log", type=PATH, default=log_file, show_default=f"stress/reports/{log}", help="A line per call."),
    )

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@curl.command("each-row")
@_script_options(10_000, "stress_test.log")
def each_row(**options: Any) -> None:
    """Call with one row at a time: every row of data/test.json, in order."""
    _run(EACH_ROW, _Options(**options))


@curl.command("random-rows")
@_script_options(10_000, "stress_test_random.log")
def random_rows(**options: Any) -> None:
    """Call with one random row at a time."""
    _run(ONE_ROW, _Options(**options))


@curl.command("random-batches")
@_script_options(10_000, "stress_test_random_batchcall.log")
@click.option("--min-rows", type=click.IntRange(min=1), default=1, show_default=True, help="Fewest rows of a call.")
@click.option("--max-rows", type=click.IntRange(min=1), default=100, show_default=True, help="Most rows of a call.")
def random_batches(min_rows: int, max_rows: int, **options: Any) -> None:
    """Call with a random number of random rows at a time."""
    if min_rows > max_rows:
        raise click.BadParameter(f"{min_rows} is more than --max-rows {max_rows}", param_hint="--min-rows")
    _run(BATCH, _Options(**options), (min_rows, max_rows))


@curl.command("whole-file")
@_script_options(1, "batch_call.log")
def whole_file(**options: Any) -> None:
    """Call with all of data/test.json at once."""
    _run(WHOLE_FILE, _Options(**options))
