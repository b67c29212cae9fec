"""``python -m benchmarks``: measures this service and its rivals in turn, and compares them."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from benchmarks.bodies import Bodies, Format, RowObjects
from benchmarks.chart import draw_chart
from benchmarks.floors import measure_floors
from benchmarks.load import require_wrk
from benchmarks.machine import Figure
from benchmarks.results import Results, load_results, save_results, summarise_run
from benchmarks.scenarios import Pace, run_round
from benchmarks.servers import FUSED, Changes, Ports, Server, own_server, rivals
from benchmarks.tables import print_report, server_table, target_table
from serve_app.components.compiled import Components
from serve_app.components.loading import load_components
from serve_app.config import PROJECT_ROOT
from stress.dataset import Dataset, load_dataset, prepare_data
from stress.errors import StressError
from stress.options import CONTEXT, PATH, console, data_option, run_command_line

_FLOORS = "in_process"
_FLOOR_SHARE = 0.3  # of a load's duration, for each of the floors
_RESULTS = PROJECT_ROOT / "benchmarks" / "results.json"
_CHART = PROJECT_ROOT / "docs" / "benchmark.svg"
_COMPONENTS = PROJECT_ROOT / "model_components"


class _Options(msgspec.Struct, frozen=True, kw_only=True):
    rounds: int
    seconds: int
    calls: int
    quick: bool
    only: Sequence[str]
    variants: Sequence[tuple[str, str]]
    data: Path
    port: int
    out: Path | None
    chart: Path | None
    show: Path | None
    markdown: bool


@click.command(context_settings=CONTEXT)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="A round is every server once.")
@click.option("--seconds", type=click.IntRange(min=1), default=4, show_default=True, help="Duration of each load.")
@click.option("--calls", type=click.IntRange(min=1), default=3, show_default=True, help="Least number of large calls.")
@click.option("--quick", is_flag=True, help="One round of 2 seconds: shows whether everything works, not how fast it is.")
@click.option("--only", multiple=True, metavar="NAME", help="Measure only this server; can be repeated.")
@click.option(
    "--variant",
    "variants",
    nargs=2,
    multiple=True,
    metavar="NAME JSON",
    help="Also measure this service with other settings. The keys of JSON are args, deployments and environment, as in: "
    """big '{"args": {"preprocessor_batches": {"max_rows": 8192}}}'.""",
)
@data_option
@click.option("--port", type=click.IntRange(1024, 65000), default=21300, show_default=True, help="This and 100 ports above it.")
@click.option("--out", type=PATH, help="Results as JSON.  [default: benchmarks/results.json, for a whole run only]")
@click.option("--chart", type=PATH, help="Chart of the results.  [default: docs/benchmark.svg, for a whole run only]")
@click.option("--show", type=PATH, help="Measure nothing; show the results in this file.")
@click.option("--markdown", is_flag=True, help="Print the tables of the documentation, in Markdown.")
def main(**given: Any) -> None:
    """Measure this service and its rivals in turn, with the same rows, on this machine.

    Each server is started, its answers are checked, it is measured and stopped; then comes the next. The rivals are
    installed in environments of their own under benchmarks/.envs when they are first needed.
    """
    options = _Options(**given)
    out, chart = options.out, options.chart
    if options.show is not None:
        results = load_results(options.show)
    else:
        results = _measure(options)
        if not options.quick and not options.only:
            out, chart = out or _RESULTS, chart or _CHART
    if options.markdown:
        click.echo(f"{server_table(results)}\n{target_table(results)}", nl=False)
    else:
        print_report(results)
    if out is not None:
        save_results(results, out)
    if chart is not None:
        draw_chart(results, chart)
    sys.exit(int(bool(results.failures)))


def _measure(options: _Options) -> Results:
    """Measures the chosen servers."""
    require_wrk()
    prepare_data(options.data, console.print)
    dataset = load_dataset(options.data)
    components = load_components(_COMPONENTS)
    if components.digest != dataset.expected.model.digest:
        raise StressError(f"{options.data}/expected.json has the answers of another model: run `python -m serve_app expect`")
    own = [own_server("serve_app", "this service"), own_server("serve_app_fused", "this service, fused", FUSED)]
    variants = [own_server(name, f"this service, {name}", _parse(name, changes)) for name, changes in options.variants]
    servers = _choose([*rivals(components.manifest.schema), *own, *variants], options.only)
    rounds, pace = (1, Pace(2, 1)) if options.quick else (options.rounds, Pace(options.seconds, options.calls))
    run = _Run(components, dataset, Ports(options.port), pace)
    return run.measure(servers, rounds=rounds, with_floors=not options.only or _FLOORS in options.only)


class _Run:
    """Measures servers and keeps the figures.

    Args:
        components: the model that every server serves.
        dataset: the rows that every server is asked for.
        ports: for the one server that runs at a time.
        pace: the durations.
    """

    def __init__(self, components: Components, dataset: Dataset, ports: Ports, pace: Pace) -> None:
        self._components = components
        self._dataset = dataset
        self._ports = ports
        self._pace = pace
        self._found: dict[str, dict[str, list[Figure]]] = {}
        self._failures: dict[str, str] = {}

    def measure(self, servers: Sequence[Server], *, rounds: int, with_floors: bool) -> Results:
        """Measures every server once, then again: a disturbance of the machine then affects more than one of them."""
        with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
            bodies = {server.name: self._bodies(server.format, Path(folder, server.name)) for server in servers}
            floor_bodies = self._bodies(RowObjects(), Path(folder, _FLOORS))
            for number in range(1, rounds + 1):
                if with_floors:
                    console.print(f"round {number} of {rounds}: {_FLOORS}")
                    for name, figure in measure_floors(self._components, floor_bodies, self._pace.seconds * _FLOOR_SHARE):
                        self._note(_FLOORS, name, figure)
                for server in servers:
                    if server.name not in self._failures:
                        console.print(f"round {number} of {rounds}: {server.name}")
                        self._measure(server, bodies[server.name])
        titles = {server.name: server.title for server in servers}
        seconds = self._pace.seconds
        return summarise_run(seconds=seconds, round_count=rounds, titles=titles, failures=self._failures, rounds=self._found)

    def _measure(self, server: Server, bodies: Bodies) -> None:
        try:
            for scenario, figure in run_round(server, bodies, self._ports, self._pace):
                self._note(server.name, scenario, figure)
        except StressError as error:
            self._failures[server.name] = str(error).partition("\n")[0].rstrip(":")
            console.print(f"{server.name} failed: {error}", style="red", markup=False)

    def _bodies(self, wanted: Format, folder: Path) -> Bodies:
        folder.mkdir()
        return Bodies(self._dataset, wanted, folder)

    def _note(self, server: str, scenario: str, figure: Figure) -> None:
        self._found.setdefault(server, {}).setdefault(scenario, []).append(figure)
        shown = "  ".join(f"{quantity} {value:.4g}" for quantity, value in figure.items())
        console.print(f"  {scenario}: {shown}", style="dim")


def _choose(servers: Sequence[Server], only: Sequence[str]) -> list[Server]:
    """The servers named by ``only``, or all."""
    known = [*(server.name for server in servers), _FLOORS]
    unknown = set(only) - set(known)
    if unknown:
        raise StressError(f"there is no server called {min(unknown)}; there are {', '.join(known)}")
    return [server for server in servers if not only or server.name in only]


def _parse(name: str, changes: str) -> Changes:
    try:
        return msgspec.json.decode(changes, type=Changes)
    except msgspec.MsgspecError as error:
        raise StressError(f"--variant {name}: {error}") from error


if __name__ == "__main__":
    run_command_line(main, "python -m benchmarks")
