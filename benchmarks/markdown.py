"""The tables of the README, in Markdown: a run's servers and what became of its targets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.results import Results, outcomes
from benchmarks.scenarios import CALLS, LOADS

__all__ = ["server_table", "target_table"]

_COLUMNS = (  # heading, scenario, quantity, format
    ("1 row, 1 connection: p50", LOADS[0].name, "p50_ms", "{:.2f} ms"),
    ("16 connections", LOADS[1].name, "requests_per_s", "{:,.0f}/s"),
    ("64 connections", LOADS[2].name, "requests_per_s", "{:,.0f}/s"),
    ("100 rows, 4 connections", LOADS[3].name, "requests_per_s", "{:,.0f}/s"),
    ("10,000 rows in one call", CALLS[0].name, "seconds", "{:.2f} s"),
)
_NOT_MEASURED = "–"  # noqa: RUF001 - a dash, as tables have it


def server_table(results: Results) -> str:
    """A line per server, a column per load."""
    lines = []
    for name, title in results.titles.items():
        scenarios = results.figures.get(name, {})
        cells = [title]
        for _, scenario, quantity, form in _COLUMNS:
            figure = scenarios.get(scenario, {})
            cells.append(_NOT_MEASURED if figure.get("errors") or quantity not in figure else form.format(figure[quantity]))
        lines.append(cells)
    return _table(["server", *(heading for heading, *_ in _COLUMNS)], lines)


def target_table(results: Results) -> str:
    """A line per target."""
    lines = []
    for outcome in outcomes(results):
        target = outcome.target
        measured = _NOT_MEASURED if outcome.value is None else f"{outcome.value:.2f} {target.unit}"
        lines.append([target.name, f"{target.sense} {target.bound:g} {target.unit}", measured, outcome.state])
    return _table(["target", "asked", "measured", ""], lines)


def _table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [headings, ["---", *["---:"] * (len(headings) - 1)], *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
