"""The part of the curl scripts that is not curl: which rows each call takes, their bodies, and what became of the calls.

The scripts run ``plan``, then for each part of the calls ``bodies`` and curl itself, whose lines ``tally`` reads:

    $work/plan.json       what was asked for
    $work/parts           a line per part: its first call, and the one behind its last
    $work/calls.curl      curl's config of the part: a request per call
    $work/bodies/N.json   what call N sends
    $work/answers/N.json  what it was answered

A part is as much as one curl process holds in memory. Each call's rows depend on the seed and its number only.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Literal, NamedTuple

import click
import msgspec
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from stress.checks import check_scores
from stress.dataset import PROJECT_ROOT, Dataset, load_dataset, prepare_data
from stress.errors import StressError, WrongAnswerError
from stress.options import PATH, data_option, seed_option, url_option
from stress.service import read_service, require_expected_model

__all__ = ["Plan", "Tally", "commands", "write_part"]

Pick = Literal["each-row", "random-rows", "random-batches", "whole-file"]

_CALLS_PER_PART = 1000
_ROWS_PER_PART = 50_000  # about 85 MB of bodies
_MAX_TIME_S = 120
_LOGGED_BYTES = 1000
_LOG_COLUMNS = ("call", "rows", "status", "seconds", "verdict", "answer")
_console = Console(stderr=True, highlight=False, soft_wrap=True)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for."""

    pick: Pick
    url: str
    calls: int
    concurrency: int
    seed: int
    data: str
    log: str
    min_rows: int = 1
    max_rows: int = 1

    def size(self, call: int, total: int) -> int:
        """How many rows a call takes, of a file of ``total``."""
        if self.pick == "whole-file":
            return total
        return self._random(call).randint(self.min_rows, self.max_rows)

    def rows(self, call: int, total: int) -> Sequence[int]:
        """Which rows a call takes, of a file of ``total``."""
        if self.pick == "whole-file":
            return range(total)
        if self.pick == "each-row":
            return (call % total,)
        random = self._random(call)
        return random.choices(range(total), k=random.randint(self.min_rows, self.max_rows))

    def parts(self, total: int) -> Iterator[tuple[int, int]]:
        """The first call of each part, and the one behind its last."""
        first, rows = 0, 0
        for call in range(self.calls):
            size = self.size(call, total)
            if call > first and (call - first == _CALLS_PER_PART or rows + size > _ROWS_PER_PART):
                yield first, call
                first, rows = call, 0
            rows += size
        yield first, self.calls

    def _random(self, call: int) -> Random:
        return Random(f"{self.seed}/{call}")


def write_part(plan: Plan, work: Path, first: int, last: int) -> None:
    """Writes the bodies of the calls from ``first`` to before ``last``, in the place of those before, and curl's config."""
    dataset = load_dataset(Path(plan.data))
    bodies, answers = work / "bodies", work / "answers"
    shutil.rmtree(bodies, ignore_errors=True)
    bodies.mkdir()
    answers.mkdir(exist_ok=True)
    requests = []
    for call in range(first, last):
        body = dataset.path.resolve()
        if plan.pick != "whole-file":
            body = bodies / f"{call}.json"
            rows = plan.rows(call, len(dataset.rows))
            body.write_bytes(b"[" + b",".join([dataset.rows[row] for row in rows]) + b"]")
        requests.append(_request(plan.url, call, body, answers / f"{call}.json"))
    (work / "calls.curl").write_text("next\n".join(requests), encoding="utf-8")


def _request(url: str, call: int, body: Path, answer: Path) -> str:
    """One request in the language of curl's config files."""
    line = f"{call}\\t%{{http_code}}\\t%{{time_total}}\\t%{{errormsg}}\\n"
    return (
        f"url = {_quoted(f'{url}/predict')}\n"
        "globoff\n"
        'header = "Content-Type: application/json"\n'
        f"data-binary = {_quoted(f'@{body}')}\n"
        f"output = {_quoted(str(answer))}\n"
        f'write-out = "{line}"\n'
        f"max-time = {_MAX_TIME_S}\n"
    )


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class _Outcome(NamedTuple):
    call: int
    status: int
    seconds: float
    error: str


class Tally:
    """Reads what curl says of each call, compares the answers with the expected ones, and logs both.

    Args:
        plan: which calls there are.
        work: the folder of the answers, which are removed as they are read.
        dataset: what is expected.
    """

    def __init__(self, plan: Plan, work: Path, dataset: Dataset) -> None:
        self._plan = plan
        self._answers = work / "answers"
        self._dataset = dataset
        self._seen: set[int] = set()
        self.seconds: list[float] = []
        self.failures: list[str] = []

    def read(self, lines: Iterable[str], advance: Callable[[], None]) -> None:
        """Reads curl's lines to their end; a call that has none has failed, too."""
        log = Path(self._plan.log)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as file:
            file.write("\t".join(_LOG_COLUMNS) + "\n")
            for line in lines:
                number, status, seconds, error = line.rstrip("\n").split("\t")
                file.write(self._judge(_Outcome(int(number), int(status), float(seconds), error)))
                advance()
            for call in sorted(set(range(self._plan.calls)) - self._seen):
                file.write(self._judge(_Outcome(call, 0, 0.0, "curl did not come to it")))

    def _judge(self, outcome: _Outcome) -> str:
        """The log's line of a call."""
        call, status, seconds, error = outcome
        self._seen.add(call)
        path = self._answers / f"{call}.json"
        answer = path.read_bytes() if path.exists() else b""  # curl makes no file where there is no answer
        path.unlink(missing_ok=True)
        rows = self._plan.rows(call, len(self._dataset.rows))
        verdict = "ok"
        try:
            if error:
                raise WrongAnswerError(error)  # noqa: TRY301
            check_scores(status, answer, rows, self._dataset.expected)
            self.seconds.append(seconds)
        except WrongAnswerError as failure:
            verdict = f"FAILED: {failure}"
            self.failures.append(f"call {call}: {failure}")
        named = str(rows[0]) if len(rows) == 1 else f"{len(rows)} rows"
        said = answer[:_LOGGED_BYTES].decode("utf-8", "replace").replace("\n", " ").replace("\t", " ")
        said += f"... ({len(answer)} bytes)" if len(answer) > _LOGGED_BYTES else ""
        return "\t".join((str(call), named, str(status), f"{seconds:.6f}", verdict, said)) + "\n"


@click.group()
def plan() -> None:
    """Plan the calls of one of the curl scripts (they run this)."""


def _plan_command(pick: Pick, calls: int, sentence: str, log: str) -> None:
    """Adds the command that plans a script's calls."""

    @url_option
    @click.option("--calls", type=click.IntRange(min=1), default=calls, show_default=f"{calls:,}", help="How many.")
    @click.option("--concurrency", type=click.IntRange(1, 300), default=16, show_default=True, help="Calls at a time.")
    @seed_option
    @data_option
    @click.option(
        "--log",
        type=PATH,
        default=PROJECT_ROOT / "stress" / "reports" / log,
        show_default=f"stress/reports/{log}",
        help="A line per call.",
    )
    @click.option("--work", type=PATH, required=True, hidden=True)
    def command(  # noqa: PLR0913 - an option each
        *,
        url: str,
        calls: int,
        concurrency: int,
        seed: int,
        data: Path,
        log: Path,
        work: Path,
        min_rows: int = 1,
        max_rows: int = 1,
    ) -> None:
        if min_rows > max_rows:
            raise click.BadParameter(f"{min_rows} is more than --max-rows {max_rows}", param_hint="--min-rows")
        served = read_service(url)
        prepare_data(data, _console.print)
        dataset = load_dataset(data)
        require_expected_model(url, served, dataset)
        made = Plan(
            pick=pick,
            url=url,
            calls=calls,
            concurrency=concurrency,
            seed=seed,
            data=str(data.resolve()),
            log=str(log.resolve()),
            min_rows=min_rows,
            max_rows=max_rows,
        )
        (work / "plan.json").write_bytes(msgspec.json.encode(made))
        (work / "concurrency").write_text(f"{concurrency}\n", encoding="utf-8")
        parts = "".join(f"{first} {last}\n" for first, last in made.parts(len(dataset.rows)))
        (work / "parts").write_text(parts, encoding="utf-8")

    if pick == "random-batches":
        rows = click.IntRange(min=1)
        command = click.option("--max-rows", type=rows, default=100, show_default=True, help="The most rows of a call.")(
            command
        )
        command = click.option("--min-rows", type=rows, default=1, show_default=True, help="The fewest rows of a call.")(
            command
        )
    plan.command(pick, help=sentence)(command)


_plan_command("each-row", 10_000, "One call per row of data/test.json, in order, by curl.", "stress_test.log")
_plan_command("random-rows", 10_000, "Calls of one random row each, by curl.", "stress_test_random.log")
_plan_command("random-batches", 10_000, "Calls of a random number of random rows, by curl.", "stress_test_random_batchcall.log")
_plan_command("whole-file", 1, "All of data/test.json in one call, by curl.", "batch_call.log")


@click.command(hidden=True)
@click.argument("work", type=PATH)
@click.argument("first", type=int)
@click.argument("last", type=int)
def bodies(work: Path, first: int, last: int) -> None:
    """Write the bodies of a part of the calls, and curl's config."""
    write_part(_read_plan(work), work, first, last)


@click.command(hidden=True)
@click.argument("work", type=PATH)
def tally(work: Path) -> None:
    """Read curl's lines from standard input, log them, and say how many calls failed."""
    made = _read_plan(work)
    counted = Tally(made, work, load_dataset(Path(made.data)))
    started = time.perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=_console) as progress:
        task = progress.add_task("calls", total=made.calls)
        counted.read(sys.stdin, lambda: progress.advance(task))
    took = time.perf_counter() - started
    for failure in counted.failures[:10]:
        _console.print(failure, style="red", markup=False)
    good, failed = len(counted.seconds), len(counted.failures)
    latency = ""
    if good:
        p50, p99 = np.percentile(counted.seconds, (50, 99)) * 1000
        latency = f", p50 {p50:.1f} ms, p99 {p99:.1f} ms"
    click.echo(f"{good:,} ok, {failed:,} failed in {took:.1f} s{latency}; a line of each in {made.log}")
    sys.exit(int(failed > 0))


commands: tuple[click.Command, ...] = (plan, bodies, tally)


def _read_plan(work: Path) -> Plan:
    try:
        return msgspec.json.decode((work / "plan.json").read_bytes(), type=Plan)
    except (OSError, msgspec.DecodeError) as error:
        raise StressError(f"{work} holds no plan: {error}") from error
