"""``python -m stress``: load tests of a running service.

Owns options, progress bars and exit codes: 0 where every call was answered as expected, otherwise 1.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from stress.capacity import CONFIRMATION, Step, search_capacity, summarise_step
from stress.compare import compare as compare_rounds
from stress.curl import commands as curl_commands
from stress.dataset import PROJECT_ROOT, load_dataset, prepare_data
from stress.errors import StressError
from stress.options import PATH, data_option, seed_option, url_option
from stress.records import figures, make_timeline
from stress.report import capacity_sentence, print_comparison, print_run, print_step
from stress.runs import Load, Run, run_load
from stress.scenarios import SCENARIOS, Scenario
from stress.service import count_replicas, read_service, require_expected_model

_REPORTS = PROJECT_ROOT / "stress" / "reports"
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_console = Console(highlight=False, soft_wrap=True)
_console.width = max(_console.width, 110)  # what the tables need, wherever they are written to

_token_option = click.option(
    "--token", envvar="RAY_AUTH_TOKEN", help="The dashboard's: what `ray get-auth-token` prints.  [env: RAY_AUTH_TOKEN]"
)
_out_option = click.option("--out", type=PATH, help="Folder of the report.  [default: stress/reports/NAME-TIME]")
_seconds_option = click.option("--seconds", type=click.FloatRange(min=1), help="Duration.  [default: the scenario's own]")


class _Commands(click.Group):
    """Says what a StressError says, without a stack trace."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except StressError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Load tests of a running service, over HTTP; every answer is compared with the expected one."""
    signal.signal(signal.SIGTERM, _exit)  # so that Locust is stopped then, too


for _command in curl_commands:
    main.add_command(_command)


@main.command()
def scenarios() -> None:
    """List the scenarios."""
    for scenario in SCENARIOS.values():
        _console.print(f"{scenario.name:14}{scenario.seconds:5.0f} s  {scenario.title}")


@main.command()
@click.argument("name", metavar="SCENARIO", type=click.Choice(list(SCENARIOS)))
@url_option
@_seconds_option
@seed_option
@data_option
@_out_option
@click.option("--web", is_flag=True, help="Serve Locust's web page while it runs, until Ctrl-C.")
@click.option("--web-port", type=click.IntRange(1, 65535), default=8089, show_default=True)
def run(  # noqa: PLR0913, PLR0917 - an option each
    name: str, url: str, seconds: float | None, seed: int, data: Path, out: Path | None, web: bool, web_port: int
) -> None:
    """Run a scenario and report on it; `python -m stress scenarios` lists them."""
    _prepare([url], data)
    out = out or _new_folder(name)
    scenario = _scenario(name, seconds)
    if web:
        _console.print(f"Locust's page: http://127.0.0.1:{web_port} (Ctrl-C ends it)")
    done = _run(Load(scenario, url, data, out, seed, web_port=web_port if web else None))
    print_run(done, _console)
    sys.exit(int(done.failed))


@main.command()
@click.option("--url-a", required=True, help="Of the one server.")
@click.option("--url-b", required=True, help="Of the other.")
@click.option("--scenario", "name", type=click.Choice(list(SCENARIOS)), default="mixed", show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=2, show_default=True, help="A round is A, then B.")
@_seconds_option
@seed_option
@data_option
@_out_option
def compare(  # noqa: PLR0913, PLR0917 - an option each
    url_a: str, url_b: str, name: str, rounds: int, seconds: float | None, seed: int, data: Path, out: Path | None
) -> None:
    """Run a scenario against two servers in turn, the same calls in the same order, and compare their figures."""
    servers = {"A": url_a.rstrip("/"), "B": url_b.rstrip("/")}
    _prepare(list(servers.values()), data)
    out = out or _new_folder(f"compare-{name}")
    scenario = _scenario(name, seconds)
    runs: dict[str, list[Run]] = {letter: [] for letter in servers}
    for number in range(1, rounds + 1):
        for letter, url in servers.items():
            _console.print(f"round {number} of {rounds}, {letter}: {url}")
            done = _run(Load(scenario, url, data, out / f"{letter}-{number}", seed))
            print_run(done, _console)
            if done.complaint:
                raise StressError(f"the comparison ends: {done.complaint}")
            runs[letter].append(done)
    found = {letter: [figures(done.records, done.records.seconds) for done in made] for letter, made in runs.items()}
    titles = [f"{letter}: {url}" for letter, url in servers.items()]
    failures = [sum(one.failures for one in rounds_of) for rounds_of in found.values()]
    print_comparison(titles, compare_rounds(found["A"], found["B"]), failures, _console)
    sys.exit(int(any(done.failed for made in runs.values() for done in made)))


@main.command()
@url_option
@click.option("--p99-ms", "limit_ms", type=click.FloatRange(min=1), default=100, show_default=True, help="The limit.")
@click.option("--first", type=click.FloatRange(min=1), default=100, show_default=True, help="Calls/s to begin with.")
@click.option("--most", type=click.FloatRange(min=1), default=20_000, show_default=True, help="Calls/s to try at most.")
@click.option("--step-seconds", type=click.FloatRange(min=1), default=8, show_default=True, help="Of each step, measured.")
@click.option(
    "--warm-up-seconds", type=click.FloatRange(min=0), default=2, show_default=True, help="Of each step, not measured."
)
@click.option("--precision", type=click.FloatRange(0.001, 1), default=0.05, show_default=True, help="When to stop halving.")
@click.option(
    "--scenario", "name", type=click.Choice(list(SCENARIOS)), default="single", show_default=True, help="For its mix."
)
@click.option("--dashboard", help="URL of the Ray dashboard, to say how many replicas there were.")
@_token_option
@seed_option
@data_option
@_out_option
def capacity(  # noqa: PLR0913, PLR0917 - an option each
    url: str,
    limit_ms: float,
    first: float,
    most: float,
    step_seconds: float,
    warm_up_seconds: float,
    precision: float,
    name: str,
    dashboard: str | None,
    token: str | None,
    seed: int,
    data: Path,
    out: Path | None,
) -> None:
    """Search the highest rate of calls at which the 99th percentile of latency stays under a limit."""
    if limit_ms > step_seconds * 1000 / 8:
        raise StressError(f"steps of {step_seconds:g} s are too short to see a latency grow beyond {limit_ms:g} ms")
    _prepare([url], data)
    out = out or _new_folder("capacity")
    steps = count(1)
    replicas = ""

    def measure(rate: float, times: int) -> Step:
        nonlocal replicas
        seconds = step_seconds * times
        scenario = SCENARIOS[name].lasting(warm_up_seconds + seconds)
        done = _run(Load(scenario, url, data, out / f"step-{next(steps)}", seed, rate=rate))
        if done.complaint:
            raise StressError(f"the search ends: {done.complaint}")
        step = summarise_step(done.records, rate, warm_up_seconds, seconds)
        print_step(step, limit_ms, _console)
        if dashboard:  # right after the load: they scale with it
            running = count_replicas(dashboard, token)
            replicas = (
                f" with {' and '.join(f'{number} {deployment}' for deployment, number in sorted(running.items()))} replicas"
            )
        return step

    longest = f"the last one {CONFIRMATION * step_seconds:g} s"
    _console.print(
        f"steps of {step_seconds:g} s after {warm_up_seconds:g} s to warm up, {longest}; limit p99 < {limit_ms:g} ms"
    )
    found = search_capacity(measure, first=first, most=most, limit_ms=limit_ms, precision=precision)
    where = (
        f"on this machine ({os.cpu_count()} CPUs, shared with the load)" if urlsplit(url).hostname in _LOOPBACK else f"at {url}"
    )
    rows = "one-row" if name == "single" else name
    _console.print(capacity_sentence(found, limit_ms, rows=rows, replicas=replicas, where=where), style="bold")
    sys.exit(int(found.rate is None))


@main.command()
@url_option
@click.option("--dashboard", required=True, help="URL of the Ray dashboard, which says how many replicas there are.")
@_token_option
@click.option("--chart", type=PATH, help="File to draw, .svg or .png.  [default: scaling.svg in the report's folder]")
@_seconds_option
@seed_option
@data_option
@_out_option
def scaling(  # noqa: PLR0913, PLR0917 - an option each
    url: str,
    dashboard: str,
    token: str | None,
    chart: Path | None,
    seconds: float | None,
    seed: int,
    data: Path,
    out: Path | None,
) -> None:
    """Watch replicas follow a load that rises and falls: the scenario `waves`, and a picture of it."""
    from stress.scaling import ReplicaSampler, draw_scaling

    _prepare([url], data)
    out = out or _new_folder("scaling")
    out.mkdir(parents=True, exist_ok=True)
    (out / "requests.csv").unlink(missing_ok=True)
    with ReplicaSampler(dashboard, token, out / "requests.csv", out / "replicas.csv") as sampler:
        done = _run(Load(_scenario("waves", seconds), url, data, out, seed))
    print_run(done, _console)
    replicas = sampler.replicas()
    for name in replicas.counts:
        _console.print(replicas.summary(name))
    chart = chart or out / "scaling.svg"
    draw_scaling(done.records, replicas, title="Replicas follow the queue", path=chart)
    _console.print(f"{chart} shows it")
    sys.exit(int(done.failed))


def _prepare(urls: list[str], data: Path) -> None:
    """Has the data written that is missing, and makes sure that what is served is what is expected."""
    served = [read_service(url) for url in urls]
    prepare_data(data, _console.print)
    dataset = load_dataset(data)
    for url, model in zip(urls, served, strict=True):
        require_expected_model(url, model, dataset)


def _scenario(name: str, seconds: float | None) -> Scenario:
    scenario = SCENARIOS[name]
    return scenario.lasting(seconds) if seconds else scenario


def _run(load: Load) -> Run:
    """One run, with a progress bar and its chart."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[calls]:,} calls"))
    with Progress(
        *columns, console=_console, transient=True, disable=load.web_port is not None or not _console.is_terminal
    ) as progress:
        title = f"{load.scenario.name}, {load.rate:,.0f} calls/s" if load.rate else load.scenario.name
        task = progress.add_task(title, total=load.scenario.seconds, calls=0)
        done = run_load(load, lambda seconds, calls: progress.update(task, completed=seconds, calls=calls))
    if len(done.records):
        from stress.chart import draw_chart  # Matplotlib takes longer to import than a curl script's commands to run

        timeline = make_timeline(done.records, load.scenario.seconds)
        draw_chart(timeline, load.scenario, rate=load.rate, path=load.out / "chart.png")
    return done


def _new_folder(name: str) -> Path:
    return _REPORTS / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def _exit(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    main(prog_name="python -m stress")
