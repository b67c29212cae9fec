"""``python -m benchmarks``: measures this service and its rivals in turn, and says how they compare."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import click
import msgspec
from rich.console import Console

from benchmarks.bodies import Bodies
from benchmarks.chart import draw_chart
from benchmarks.errors import BenchmarkError
from benchmarks.floors import measure_floors
from benchmarks.formats import Format, RowObjects
from benchmarks.load import require_wrk
from benchmarks.markdown import server_table, target_table
from benchmarks.meter import Figure
from benchmarks.report import print_report
from benchmarks.results import Results, load_results, save_results, summarise_run
from benchmarks.rows import Dataset, read_dataset
from benchmarks.scenarios import Pace, run_round
from benchmarks.servers import FUSED, SPLIT, OwnVariant, Ports, Server, own_server, rivals
from serve_app.components.compiled import Components
from serve_app.components.loading import load_components
from serve_app.config import PROJECT_ROOT, Settings
from serve_app.errors import ServeAppError

_ROWS = 10_000
_FLOORS = "in_process"
_FLOOR_SHARE = 0.3  # of a load's time, for each of the floors
_RESULTS = PROJECT_ROOT / "benchmarks" / "results.json"
_CHART = PROJECT_ROOT / "docs" / "benchmark.svg"
_PATH = click.Path(path_type=Path)
_console = Console(highlight=False)
_console.width = max(_console.width, 110)  # what the tables need, wherever they are written to


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="A round is every server once.")
@click.option("--seconds", type=click.IntRange(min=1), default=4, show_default=True, help="Of each load.")
@click.option("--calls", type=click.IntRange(min=1), default=3, show_default=True, help="At least, of a large request.")
@click.option("--quick", is_flag=True, help="One round of 2 seconds: to see that everything works, not how fast.")
@click.option("--only", multiple=True, metavar="NAME", help="Measure this server; may be given again.")
@click.option(
    "--variant",
    "variants",
    nargs=2,
    multiple=True,
    metavar="NAME JSON",
    help="This service with other settings as well. The keys of JSON are args, deployments and environment, as in: "
    """big '{"args": {"preprocessor_batches": {"max_rows": 8192}}}'.""",
)
@click.option("--data", type=_PATH, default=PROJECT_ROOT / "data" / "test.json", show_default="data/test.json")
@click.option("--components", type=_PATH, default=PROJECT_ROOT / "model_components", show_default="model_components")
@click.option("--port", type=click.IntRange(1024, 65000), default=21300, show_default=True, help="And the 100 above it.")
@click.option("--out", type=_PATH, help="Results as JSON.  [default: benchmarks/results.json, of a whole run only]")
@click.option("--chart", type=_PATH, help="Picture of the results.  [default: docs/benchmark.svg, of a whole run only]")
@click.option("--show", type=_PATH, help="Measure nothing: show the results in this file.")
@click.option("--markdown", is_flag=True, help="Show them as the README has them.")
def main(  # noqa: PLR0913 - an option each
    *,
    rounds: int,
    seconds: int,
    calls: int,
    quick: bool,
    only: Sequence[str],
    variants: Sequence[tuple[str, str]],
    data: Path,
    components: Path,
    port: int,
    out: Path | None,
    chart: Path | None,
    show: Path | None,
    markdown: bool,
) -> None:
    """Measure this service and its rivals in turn, on the same rows, on this machine.

    Every server is started, its answers are checked, it is measured and stopped; then comes the next. The rivals are
    installed in environments of their own under benchmarks/.envs when they are first needed.
    """
    signal.signal(signal.SIGTERM, _exit)  # so that the server that runs is stopped then, too
    try:
        if show is None:
            if quick:
                rounds, seconds, calls = 1, 2, 1
            elif not only:
                out, chart = out or _RESULTS, chart or _CHART
            require_wrk()
            loaded = load_components(components)
            everything = [*rivals(loaded.manifest.schema), *map(own_server, _parse_variants(variants))]
            run = _Run(loaded, read_dataset(data, _ROWS, loaded), Ports(port), Pace(seconds, calls))
            results = run.measure(_choose(everything, only), rounds=rounds, with_floors=not only or _FLOORS in only)
        else:
            results = load_results(show)
        if markdown:
            click.echo(f"{server_table(results)}\n{target_table(results)}", nl=False)
        else:
            print_report(results, _console)
        if out is not None:
            save_results(results, out)
        if chart is not None:
            draw_chart(results, chart)
    except (BenchmarkError, ServeAppError) as error:
        raise click.ClickException(str(error)) from error
    if results.failures:
        sys.exit(1)


class _Run:
    """Measures, and keeps what it finds.

    Args:
        components: what every server serves.
        dataset: what every server is asked.
        ports: for the one server that runs at a time.
        pace: how long everything takes.
    """

    def __init__(self, components: Components, dataset: Dataset, ports: Ports, pace: Pace) -> None:
        self._components = components
        self._dataset = dataset
        self._ports = ports
        self._pace = pace
        self._found: dict[str, dict[str, list[Figure]]] = {}
        self._failures: dict[str, str] = {}

    def measure(self, servers: Sequence[Server], *, rounds: int, with_floors: bool) -> Results:
        """Every server once, then again: what disturbs the machine for a while then disturbs more than one of them."""
        with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
            bodies = {server.name: self._bodies(server.format, Path(folder, server.name)) for server in servers}
            floor_bodies = self._bodies(RowObjects(), Path(folder, _FLOORS))
            for number in range(1, rounds + 1):
                if with_floors:
                    _console.print(f"round {number} of {rounds}: {_FLOORS}")
                    for name, figure in measure_floors(self._components, floor_bodies, self._pace.seconds * _FLOOR_SHARE):
                        self._note(_FLOORS, name, figure)
                for server in servers:
                    if server.name not in self._failures:
                        _console.print(f"round {number} of {rounds}: {server.name}")
                        self._measure(server, bodies[server.name])
        return summarise_run(
            seconds=self._pace.seconds,
            round_count=rounds,
            titles={server.name: server.title for server in servers},
            failures=self._failures,
            rounds=self._found,
        )

    def _measure(self, server: Server, bodies: Bodies) -> None:
        try:
            for scenario, figure in run_round(server, bodies, self._ports, self._pace):
                self._note(server.name, scenario, figure)
        except BenchmarkError as error:
            self._failures[server.name] = str(error).partition("\n")[0].rstrip(":")
            _console.print(f"{server.name} failed: {error}", style="red", markup=False)

    def _bodies(self, wanted: Format, folder: Path) -> Bodies:
        folder.mkdir()
        return Bodies(self._dataset, wanted, folder)

    def _note(self, server: str, scenario: str, figure: Figure) -> None:
        self._found.setdefault(server, {}).setdefault(scenario, []).append(figure)
        shown = "  ".join(f"{quantity} {value:.4g}" for quantity, value in figure.items())
        _console.print(f"  {scenario}: {shown}", style="dim")


def _choose(servers: Sequence[Server], only: Sequence[str]) -> list[Server]:
    """The servers that were asked for: all, unless some are named."""
    known = [*(server.name for server in servers), _FLOORS]
    unknown = set(only) - set(known)
    if unknown:
        raise BenchmarkError(f"there is no server called {min(unknown)}; there are {', '.join(known)}")
    return [server for server in servers if not only or server.name in only]


class _Changes(msgspec.Struct, forbid_unknown_fields=True):
    args: dict[str, Any] = {}
    deployments: dict[str, dict[str, Any] | None] = {}
    environment: dict[str, str] = {}


def _parse_variants(given: Sequence[tuple[str, str]]) -> list[OwnVariant]:
    """This service as configured, fused where its settings know that word, and as the options say."""
    variants = [SPLIT]
    if "topology" in Settings.__struct_fields__:
        variants.append(FUSED)
    for name, changes in given:
        try:
            parsed = msgspec.json.decode(changes, type=_Changes)
        except msgspec.MsgspecError as error:
            raise BenchmarkError(f"--variant {name}: {error}") from error
        variants.append(OwnVariant(name, f"this service, {name}", parsed.args, parsed.deployments, parsed.environment))
    return variants


def _exit(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
