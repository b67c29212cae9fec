"""The tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.floors import FLOOR_ROWS, FLOORS
from benchmarks.meter import Figure
from benchmarks.results import Results, outcomes
from benchmarks.scenarios import CALLS, IDLE, LOADS, MEMORY, MIXED, OWN_CALLS, START
from benchmarks.targets import Outcome

__all__ = ["print_report"]

_ONE, _SIXTEEN, _SIXTY_FOUR, _HUNDRED = (load.name for load in LOADS)
_LARGE = CALLS[0].name
_Columns = Sequence[tuple[str, str, str, str]]  # heading, scenario, quantity, format
_SMALL: _Columns = (
    ("1 conn.\np50 ms", _ONE, "p50_ms", ",.2f"),
    ("16 conn.\nreq/s", _SIXTEEN, "requests_per_s", ",.0f"),
    ("16 conn.\np99 ms", _SIXTEEN, "p99_ms", ",.1f"),
    ("64 conn.\nreq/s", _SIXTY_FOUR, "requests_per_s", ",.0f"),
    ("64 conn.\np99 ms", _SIXTY_FOUR, "p99_ms", ",.1f"),
    ("CPU ms per\nrequest", _SIXTEEN, "cpu_ms_per_request", ",.2f"),
)
_OTHER: _Columns = (
    ("100 rows,\n4 conn. req/s", _HUNDRED, "requests_per_s", ",.0f"),
    ("10,000 rows\ns", _LARGE, "seconds", ",.3f"),
    ("small beside large:\np99 ms", MIXED, "p99_ms", ",.1f"),
    ("idle\nMB", IDLE, "memory_mb", ",.0f"),
    ("launch to\nanswer s", START, "seconds", ",.1f"),
)
_STYLES = {"met": "green", "short": "red", "not measured": "dim"}


def print_report(results: Results, console: Console) -> None:
    """Servers, floors, what a row costs, targets."""
    machine = results.machine
    console.print(
        f"\n{results.date}; {machine['cpu']}, {machine['cpus']} CPUs, {machine['memory_gib']} GiB, "
        f"{machine['system']}, Python {machine['python']}; medians of {results.round_count} rounds of {results.seconds} s "
        "a load, which is made on the same CPUs. Beside each figure: the share of the machine that others took meanwhile.\n"
    )
    console.print(_servers("Requests of 1 row", _SMALL, results))
    console.print(_servers("Larger requests; 1 row at 16 connections beside calls of 10,000; upkeep", _OTHER, results))
    console.print(_floors(results))
    console.print(_row_costs(results))
    console.print(_targets(outcomes(results)))
    for server, reason in results.failures.items():
        console.print(Text(f"{server} failed: {reason}", style="red"))


def _servers(caption: str, columns: _Columns, results: Results) -> Table:
    table = Table(title=caption)
    table.add_column("server", no_wrap=True)
    for heading, *_ in columns:
        table.add_column(heading, justify="right")
    for name, title in results.titles.items():
        scenarios = results.figures.get(name, {})
        cells = [_cell(scenarios.get(scenario), quantity, form) for _, scenario, quantity, form in columns]
        table.add_row(title, *cells)
    return table


def _floors(results: Results) -> Table:
    table = Table(title="In one process, without a server")
    table.add_column("work")
    for rows in FLOOR_ROWS:
        table.add_column(f"{rows:,} row{'s' if rows > 1 else ''}, ms", justify="right")
    scenarios = results.figures.get("in_process", {})
    for name in FLOORS:
        figures = [scenarios.get(f"{name}_{rows}") for rows in FLOOR_ROWS]
        table.add_row(name.replace("_", " "), *(_cell(figure, "seconds", ",.3f", factor=1e3) for figure in figures))
    return table


def _row_costs(results: Results) -> Table:
    table = Table(title="What a row costs, by the size of its request")
    table.add_column("server")
    calls = sorted((*CALLS, *OWN_CALLS), key=lambda one: one.rows)
    for one in calls:
        table.add_column(f"{one.rows:,} rows\nµs per row", justify="right")
    table.add_column("100,000 rows\nMB grown / MB of body", justify="right")
    for name, title in results.titles.items():
        scenarios = results.figures.get(name, {})
        if OWN_CALLS[0].name in scenarios:
            cells = [_cell(scenarios.get(one.name), "us_per_row", ",.1f") for one in calls]
            table.add_row(title, *cells, _cell(scenarios.get(MEMORY), "growth_per_body", ".2f"))
    return table


def _targets(found: Sequence[Outcome]) -> Table:
    table = Table(title="Targets")
    for heading in ("target", "asked", "stretch", "measured", ""):
        table.add_column(heading, justify="left" if heading == "target" else "right")
    for outcome in found:
        target = outcome.target
        stretch = "" if target.stretch is None else f"{target.stretch:g} {target.unit}"
        if outcome.stretch_state == "met":
            stretch += " met"
        measured = "" if outcome.value is None else f"{outcome.value:.2f} {target.unit}"
        state = Text(outcome.state, style=_STYLES[outcome.state])
        table.add_row(target.name, f"{target.sense} {target.bound:g} {target.unit}", stretch, measured, state)
    return table


def _cell(figure: Figure | None, quantity: str, form: str, factor: float = 1.0) -> Text:
    if figure is None or quantity not in figure:
        return Text("")
    if figure.get("errors"):
        return Text(f"invalid: {figure['errors']:.0f} errors", style="red")
    cell = Text(format(figure[quantity] * factor, form))
    if "others_share" in figure:
        cell.append(f" {figure['others_share']:4.0%}", style="dim")
    return cell
