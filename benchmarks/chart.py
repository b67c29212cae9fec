"""The picture of a run: docs/benchmark.svg. The same results make the same file, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.results import Results
from benchmarks.scenarios import CALLS, LOADS

__all__ = ["draw_chart"]

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "benchmark",
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": "medium",
    "axes.titlelocation": "left",
}
_RIVAL_COLOUR, _OWN_COLOUR = "#b0b7c3", "#2f6db5"
_PANELS = (  # title, scenario, quantity, format
    ("1 row, 16 connections: requests/s (more is better)", LOADS[1].name, "requests_per_s", "{:,.0f}"),
    ("1 row, 64 connections: requests/s (more is better)", LOADS[2].name, "requests_per_s", "{:,.0f}"),
    ("100 rows, 4 connections: requests/s (more is better)", LOADS[3].name, "requests_per_s", "{:,.0f}"),
    ("10,000 rows in one call: seconds (less is better)", CALLS[0].name, "seconds", "{:.2f}"),
)


def draw_chart(results: Results, path: Path) -> None:
    """Draws ``path`` in the format of its suffix: a panel per scenario, a bar per server."""
    machine = results.machine
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11.0, 7.0), layout="constrained")
        FigureCanvasAgg(figure)
        for axes, (title, scenario, quantity, form) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
            _draw_panel(axes, results, scenario, quantity, form)
            axes.set_title(title)
        figure.suptitle("The same model, the same rows, one machine: this service and its rivals")
        figure.supxlabel(
            f"{results.date}; {machine['cpu']}, {machine['cpus']} CPUs, load made on the same CPUs; medians of "
            f"{results.round_count} rounds",
            fontsize="small",
        )
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _draw_panel(axes: Axes, results: Results, scenario: str, quantity: str, form: str) -> None:
    servers = list(reversed(results.titles))  # bars are drawn from below
    figures = [results.figures.get(server, {}).get(scenario, {}) for server in servers]
    # Neither what failed nor what had errors has a bar.
    values = [0.0 if figure.get("errors") else figure.get(quantity, 0.0) for figure in figures]
    colours = [_OWN_COLOUR if results.titles[server].startswith("this service") else _RIVAL_COLOUR for server in servers]
    bars = axes.barh([results.titles[server] for server in servers], values, color=colours)
    axes.bar_label(bars, [form.format(value) if value else "not measured" for value in values], padding=3)
    axes.margins(x=0.15)
    axes.xaxis.set_visible(False)  # each bar is labelled
    axes.spines["bottom"].set_visible(False)
