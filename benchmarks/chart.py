"""The chart of a run, docs/benchmark.svg."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes

from benchmarks.results import Results
from benchmarks.scenarios import CALLS, LOADS
from stress.charts import BLUE, GREY, saved_figure

__all__ = ["draw_chart"]

_PANELS = (  # title, scenario, quantity, format
    ("1 row, 16 connections: requests/s (more is better)", LOADS[1].name, "requests_per_s", "{:,.0f}"),
    ("1 row, 64 connections: requests/s (more is better)", LOADS[2].name, "requests_per_s", "{:,.0f}"),
    ("100 rows, 4 connections: requests/s (more is better)", LOADS[3].name, "requests_per_s", "{:,.0f}"),
    ("10,000 rows in one call: seconds (less is better)", CALLS[0].name, "seconds", "{:.2f}"),
)


def draw_chart(results: Results, path: Path) -> None:
    """Draws ``path`` in the format of its suffix: a panel per scenario, a bar per server."""
    machine = results.machine
    with saved_figure(path, size=(11.0, 7.0), salt="benchmark") as figure:
        for axes, (title, scenario, quantity, form) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
            _draw_panel(axes, results, scenario, quantity, form)
            axes.set_title(title)
        figure.suptitle("The same model, the same rows, one machine: this service and its rivals")
        figure.supxlabel(
            f"{results.date}; {machine.cpu}, {machine.cpus} CPUs, load made on the same CPUs; medians of "
            f"{results.round_count} rounds",
            fontsize="small",
        )


def _draw_panel(axes: Axes, results: Results, scenario: str, quantity: str, form: str) -> None:
    servers = list(reversed(results.titles))  # bars are drawn from below
    titles = [results.titles[server] for server in servers]
    values = [results.value(server, scenario, quantity) or 0.0 for server in servers]
    bars = axes.barh(titles, values, color=[BLUE if title.startswith("this service") else GREY for title in titles])
    axes.bar_label(bars, [form.format(value) if value else "not measured" for value in values], padding=3)
    axes.margins(x=0.15)
    axes.xaxis.set_visible(False)  # each bar is labelled
    axes.spines["bottom"].set_visible(False)
