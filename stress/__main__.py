"""``python -m stress``: load tests of a running service.

Owns options, progress bars and exit codes: 0 if every call was answered as expected, otherwise 1.
"""
# ruff: noqa: PLR0913 - commands have an argument per option

from __future__ import annotations

import os
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import msgspec
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from stress.capacity import CONFIRMATION, Step, search_capacity, summarise_step
from stress.curl import curl
from stress.errors import StressError
from stress.options import CONTEXT, PATH, Common, at_least, common_options, console, run_command_line, url_option
from stress.records import Figures, duration, figures, make_timeline
from stress.records import compare as compare_rounds
from stress.report import capacity_sentence, print_comparison, print_run, print_step
from stress.runs import Load, Run, run_load
from stress.scenarios import SCENARIOS
from stress.service import count_replicas, prepare

_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_SCENARIO = click.Choice(list(SCENARIOS))
_DASHBOARD = "URL of the Ray dashboard, which says how many replicas there are."
_token_option = click.option(
    "--token", envvar="RAY_AUTH_TOKEN", help="Token of the dashboard, from `ray get-auth-token`.  [env: RAY_AUTH_TOKEN]"
)
_seconds_option = click.option("--seconds", type=at_least(1), help="Duration.  [default: the scenario's own]")


@click.group(context_settings=CONTEXT)
def main() -> None:
    """Load tests of a running service, over HTTP; every answer is compared with the expected one."""


main.add_command(curl)


@main.command()
def scenarios() -> None:
    """List the scenarios."""
    for scenario in SCENARIOS.values():
        console.print(f"{scenario.name:14}{scenario.seconds:5.0f} s  {scenario.title}")


@main.command()
@click.argument("name", metavar="SCENARIO", type=_SCENARIO)
@url_option
@_seconds_option
@common_options
@click.option("--web", is_flag=True, help="Serve Locust's web page during the run, until Ctrl-C.")
@click.option("--web-port", type=click.IntRange(1, 65535), default=8089, show_default=True)
def run(*, name: str, url: str, seconds: float | None, common: Common, web: bool, web_port: int) -> None:
    """Run a scenario and report on it; `python -m stress scenarios` lists them."""
    prepare([url], common.data, console.print)
    if web:
        console.print(f"Locust's page: http://127.0.0.1:{web_port} (Ctrl-C ends it)")
    load = _load(name, url, common, common.folder(name), seconds)
    done = _run(replace(load, web_port=web_port if web else None))
    print_run(done)
    sys.exit(int(done.failed))


@main.command()
@click.option("--url-a", required=True, help="URL of server A.")
@click.option("--url-b", required=True, help="URL of server B.")
@click.option("--scenario", "name", type=_SCENARIO, default="mixed", show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=2, show_default=True, help="A round is A, then B.")
@_seconds_option
@common_options
def compare(*, url_a: str, url_b: str, name: str, rounds: int, seconds: float | None, common: Common) -> None:
    """Run a scenario against two servers in turn, with the same calls in the same order, and compare the figures."""
    servers = {"A": url_a.rstrip("/"), "B": url_b.rstrip("/")}
    prepare(list(servers.values()), common.data, console.print)
    folder = common.folder(f"compare-{name}")
    found: dict[str, list[Figures]] = {letter: [] for letter in servers}
    for number in range(1, rounds + 1):
        for letter, url in servers.items():
            console.print(f"round {number} of {rounds}, {letter}: {url}")
            done = _run(_load(name, url, common, folder / f"{letter}-{number}", seconds))
            print_run(done)
            if done.complaint:
                raise StressError(f"the comparison ends: {done.complaint}")
            found[letter].append(figures(done.records, duration(done.records)))
    failures = [sum(one.failures for one in made) for made in found.values()]
    titles = [f"{letter}: {url}" for letter, url in servers.items()]
    print_comparison(titles, compare_rounds(found["A"], found["B"]), failures)
    sys.exit(int(any(failures)))


class _Search(msgspec.Struct, frozen=True, kw_only=True):
    """The options of ``capacity``."""

    url: str
    limit_ms: float
    first: float
    most: float
    step_seconds: float
    warm_up_seconds: float
    precision: float
    name: str
    dashboard: str | None
    token: str | None
    common: Common

    def measure(self, folder: Path, rate: float, times: int) -> Step:
        """Runs one step, for ``times`` the usual duration, and prints it."""
        seconds = self.step_seconds * times
        load = _load(self.name, self.url, self.common, folder, self.warm_up_seconds + seconds)
        done = _run(replace(load, rate=rate))
        if done.complaint:
            raise StressError(f"the search ends: {done.complaint}")
        step = summarise_step(done.records, rate, self.warm_up_seconds, seconds)
        print_step(step, self.limit_ms)
        return step

    def replicas(self) -> str:
        """The current number of replicas, in words; empty without a dashboard."""
        if not self.dashboard:
            return ""
        running = sorted(count_replicas(self.dashboard, self.token).items())
        return f" with {' and '.join(f'{number} {deployment}' for deployment, number in running)} replicas"


@main.command()
@url_option
@click.option("--p99-ms", "limit_ms", type=at_least(1), default=100, show_default=True, help="Limit of the latency.")
@click.option("--first", type=at_least(1), default=100, show_default=True, help="First rate, calls/s.")
@click.option("--most", type=at_least(1), default=20_000, show_default=True, help="Highest rate, calls/s.")
@click.option("--step-seconds", type=at_least(1), default=8, show_default=True, help="Measured part of each step.")
@click.option("--warm-up-seconds", type=at_least(0), default=2, show_default=True, help="Unmeasured part of each step.")
@click.option("--precision", type=click.FloatRange(0.001, 1), default=0.05, show_default=True, help="Final gap of rates.")
@click.option("--scenario", "name", type=_SCENARIO, default="single", show_default=True, help="Source of the mix of calls.")
@click.option("--dashboard", help=_DASHBOARD)
@_token_option
@common_options
def capacity(**options: Any) -> None:
    """Search the highest rate of calls at which the 99th percentile of latency stays under a limit."""
    search = _Search(**options)
    seconds, limit_ms = search.step_seconds, search.limit_ms
    if limit_ms > seconds * 1000 / 8:
        raise StressError(f"steps of {seconds:g} s are too short to see a latency grow beyond {limit_ms:g} ms")
    prepare([search.url], search.common.data, console.print)
    folder, numbers, replicas = search.common.folder("capacity"), count(1), ""
    console.print(
        f"steps of {seconds:g} s after {search.warm_up_seconds:g} s to warm up, the last one {CONFIRMATION * seconds:g} s; "
        f"limit p99 < {limit_ms:g} ms"
    )

    def measure(rate: float, times: int) -> Step:
        nonlocal replicas
        step = search.measure(folder / f"step-{next(numbers)}", rate, times)
        replicas = search.replicas()  # right after the load, before they scale down
        return step

    found = search_capacity(measure, first=search.first, most=search.most, limit_ms=limit_ms, precision=search.precision)
    is_here = urlsplit(search.url).hostname in _LOOPBACK
    where = f"on this machine ({os.cpu_count()} CPUs, shared with the load)" if is_here else f"at {search.url}"
    rows = "one-row" if search.name == "single" else search.name
    console.print(capacity_sentence(found, limit_ms, rows=rows, replicas=replicas, where=where), style="bold")
    sys.exit(int(found.rate is None))


@main.command()
@url_option
@click.option("--dashboard", required=True, help=_DASHBOARD)
@_token_option
@click.option("--chart", type=PATH, help="File to draw, .svg or .png.  [default: scaling.svg in the report's folder]")
@_seconds_option
@common_options
def scaling(*, url: str, dashboard: str, token: str | None, chart: Path | None, seconds: float | None, common: Common) -> None:
    """Draw how replicas follow a load that rises and falls, the scenario `waves`."""
    from stress.charts import draw_scaling
    from stress.scaling import ReplicaSampler, summary

    prepare([url], common.data, console.print)
    out = common.folder("scaling")
    out.mkdir(parents=True, exist_ok=True)
    (out / "requests.csv").unlink(missing_ok=True)
    with ReplicaSampler(dashboard, token, out / "requests.csv") as sampler:
        done = _run(_load("waves", url, common, out, seconds))
    print_run(done)
    replicas = sampler.replicas()
    replicas.to_csv(out / "replicas.csv", float_format="%.2f")
    for deployment in replicas:
        console.print(summary(replicas[deployment]))
    chart = chart or out / "scaling.svg"
    draw_scaling(done.records, replicas, title="Replicas follow the queue", path=chart)
    console.print(f"{chart} shows it")
    sys.exit(int(done.failed))


def _load(name: str, url: str, common: Common, out: Path, seconds: float | None) -> Load:
    return Load(SCENARIOS[name].lasting(seconds), url, common.data, out, common.seed)


def _run(load: Load) -> Run:
    """One run, with a progress bar and its chart."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[calls]:,} calls"))
    hidden = load.web_port is not None or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        title = f"{load.scenario.name}, {load.rate:,.0f} calls/s" if load.rate else load.scenario.name
        task = progress.add_task(title, total=load.scenario.seconds, calls=0)
        done = run_load(load, lambda seconds, calls: progress.update(task, completed=seconds, calls=calls))
    if len(done.records):
        from stress.charts import draw_run  # Matplotlib takes longer to import than a curl script's commands to run

        draw_run(make_timeline(done.records, load.scenario.seconds), load.scenario, rate=load.rate, path=load.out / "chart.png")
    return done


if __name__ == "__main__":
    run_command_line(main, "python -m stress")
