"""The tables of a run: on the terminal, and in Markdown for the project's documentation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from benchmarks.floors import FLOOR_ROWS
from benchmarks.results import Results, outcomes
from benchmarks.scenarios import CALLS, IDLE, LOADS, MEMORY, MIXED, OWN_CALLS, START
from stress.options import console, table

__all__ = ["print_report", "server_table", "target_table"]

_ONE, _SIXTEEN, _SIXTY_FOUR, _HUNDRED = (load.name for load in LOADS)
_LARGE = CALLS[0].name
_RATE = "requests_per_s"
_Column = tuple[str, str, str, str]  # heading, scenario, quantity, format

_SMALL: Sequence[_Column] = (
    ("1 conn.\np50 ms", _ONE, "p50_ms", "{:,.2f}"),
    ("16 conn.\nreq/s", _SIXTEEN, _RATE, "{:,.0f}"),
    ("16 conn.\np99 ms", _SIXTEEN, "p99_ms", "{:,.1f}"),
    ("64 conn.\nreq/s", _SIXTY_FOUR, _RATE, "{:,.0f}"),
    ("64 conn.\np99 ms", _SIXTY_FOUR, "p99_ms", "{:,.1f}"),
    ("CPU ms per\nrequest", _SIXTEEN, "cpu_ms_per_request", "{:,.2f}"),
)
_OTHER: Sequence[_Column] = (
    ("100 rows,\n4 conn. req/s", _HUNDRED, _RATE, "{:,.0f}"),
    ("10,000 rows\ns", _LARGE, "seconds", "{:,.3f}"),
    ("small with large:\np99 ms", MIXED, "p99_ms", "{:,.1f}"),
    ("idle\nMB", IDLE, "memory_mb", "{:,.0f}"),
    ("launch to\nanswer s", START, "seconds", "{:,.1f}"),
)
_ROW_COSTS: Sequence[_Column] = (
    *((f"{one.rows:,} rows\nµs per row", one.name, "us_per_row", "{:,.1f}") for one in sorted((*CALLS, *OWN_CALLS))),
    ("100,000 rows\nMB grown / MB of body", MEMORY, "growth_per_body", "{:.2f}"),
)
_PUBLISHED: Sequence[_Column] = (
    ("1 row, 1 connection: p50", _ONE, "p50_ms", "{:.2f} ms"),
    ("16 connections", _SIXTEEN, _RATE, "{:,.0f}/s"),
    ("64 connections", _SIXTY_FOUR, _RATE, "{:,.0f}/s"),
    ("100 rows, 4 connections", _HUNDRED, _RATE, "{:,.0f}/s"),
    ("10,000 rows in one call", _LARGE, "seconds", "{:.2f} s"),
)
_NOT_MEASURED = "–"  # noqa: RUF001 - a dash, as tables have it
_STYLES = {"met": "green", "short": "red", "not measured": "dim"}


def print_report(results: Results) -> None:
    """Servers, floors, the cost of a row, targets."""
    machine = results.machine
    console.print(
        f"\n{results.date}; {machine.cpu}, {machine.cpus} CPUs, {machine.memory_gib} GiB, {machine.system}, Python "
        f"{machine.python}; medians of {results.round_count} rounds of {results.seconds} s a load, which is generated on the "
        "same CPUs. After each figure: the share of the machine that other programs used meanwhile.\n"
    )
    own = [name for name in results.titles if OWN_CALLS[0].name in results.figures.get(name, {})]
    console.print(_servers("Requests of 1 row", _SMALL, results, results.titles))
    console.print(
        _servers("Larger requests; 1 row at 16 connections with calls of 10,000; upkeep", _OTHER, results, results.titles)
    )
    console.print(_floors(results))
    console.print(_servers("Cost of a row, by the size of its request", _ROW_COSTS, results, own))
    console.print(_targets(results))
    for server, reason in results.failures.items():
        console.print(Text(f"{server} failed: {reason}", style="red"))


def _servers(title: str, columns: Sequence[_Column], results: Results, names: Iterable[str]) -> Table:
    found = table("server", *(heading for heading, *_ in columns), title=title)
    found.columns[0].no_wrap = True
    for name in names:
        found.add_row(results.titles[name], *(_cell(results, name, column) for column in columns))
    return found


def _floors(results: Results) -> Table:
    columns = [(f"{rows:,} rows, ms", f"whole_path_{rows}", "seconds", "{:,.3f}") for rows in FLOOR_ROWS]
    found = table("work", *(heading for heading, *_ in columns), title="In one process, without a server")
    found.add_row("parse, score, encode", *(_cell(results, "in_process", column, factor=1e3) for column in columns))
    return found


def _targets(results: Results) -> Table:
    found = table("target", "asked", "stretch", "measured", "", title="Targets")
    for outcome in outcomes(results):
        target = outcome.target
        stretch = "" if target.stretch is None else f"{target.stretch:g} {target.unit}"
        if outcome.stretch_state == "met":
            stretch += " met"
        measured = "" if outcome.value is None else f"{outcome.value:.2f} {target.unit}"
        state = Text(outcome.state, style=_STYLES[outcome.state])
        found.add_row(target.name, f"{target.sense} {target.bound:g} {target.unit}", stretch, measured, state)
    return found


def _cell(results: Results, server: str, column: _Column, factor: float = 1.0) -> Text:
    _, scenario, quantity, form = column
    figure = results.figures.get(server, {}).get(scenario, {})
    if quantity not in figure:
        return Text("")
    if figure.get("errors"):
        return Text(f"invalid: {figure['errors']:.0f} errors", style="red")
    cell = Text(form.format(figure[quantity] * factor))
    if "others_share" in figure:
        cell.append(f" {figure['others_share']:4.0%}", style="dim")
    return cell


def server_table(results: Results) -> str:
    """A line per server, a column per load, in Markdown."""
    lines = [
        [title, *(_published(results.value(name, scenario, quantity), form) for _, scenario, quantity, form in _PUBLISHED)]
        for name, title in results.titles.items()
    ]
    return _markdown(["server", *(heading for heading, *_ in _PUBLISHED)], lines)


def target_table(results: Results) -> str:
    """A line per target, in Markdown."""
    lines = []
    for outcome in outcomes(results):
        target = outcome.target
        asked = f"{target.sense} {target.bound:g} {target.unit}"
        lines.append([target.name, asked, _published(outcome.value, f"{{:.2f}} {target.unit}"), outcome.state])
    return _markdown(["target", "asked", "measured", ""], lines)


def _published(value: float | None, form: str) -> str:
    return _NOT_MEASURED if value is None else form.format(value)


def _markdown(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [headings, ["---", *["---:"] * (len(headings) - 1)], *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
