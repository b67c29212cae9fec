"""The picture of a run: throughput, percentiles of latency, failures and users over time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from stress.records import Timeline
from stress.scenarios import Scenario

__all__ = ["STYLE", "draw_chart"]

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "stress",
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": "medium",
    "axes.titlelocation": "left",
}
"""Matplotlib's settings for all pictures of load tests."""
_THROUGHPUT, _FAILURES, _USERS = "#2f6db5", "#c0392b", "#7f8794"
_PERCENTILES = {50: "#9ec1e6", 95: "#2f6db5", 99: "#16365c"}


def draw_chart(timeline: Timeline, scenario: Scenario, *, rate: float, path: Path) -> None:
    """Draws ``path`` in the format of its suffix. ``rate`` is that of an open load; 0 where users made the load."""
    edges = timeline.edges
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 8.0), layout="constrained")
        FigureCanvasAgg(figure)
        calls, latency, failures, users = figure.subplots(4, 1, sharex=True, height_ratios=(3, 3, 1.2, 1.2))
        calls.stairs(timeline.calls_per_s, edges, color=_THROUGHPUT, fill=True, alpha=0.85)
        calls.set_title("calls answered as expected, per second")
        for percent, values in timeline.percentiles_ms.items():
            latency.stairs(values, edges, baseline=None, color=_PERCENTILES[percent], linewidth=1.6, label=f"p{percent}")
        latency.set_title("their latency, ms")
        latency.legend(loc="lower right", bbox_to_anchor=(1, 0.98), frameon=False, ncols=3)
        failures.stairs(timeline.failures_per_s, edges, color=_FAILURES, fill=True)
        failures.set_title("failures per second")
        if rate:
            users.axhline(rate, color=_USERS)
            users.set_title("calls per second that were due")
        else:
            at = np.linspace(0, scenario.seconds, 500, endpoint=False)
            users.plot(at, [scenario.users_at(float(moment)) for moment in at], color=_USERS)
            users.set_title("users, as planned")
        users.set_xlabel("seconds")
        for axes in (calls, latency, failures, users):
            axes.set_ylim(bottom=0)
            axes.grid(axis="y", color="#e3e6ea", linewidth=0.8)
            axes.set_axisbelow(True)
        failures.set_ylim(top=max(1.0, 1.1 * float(timeline.failures_per_s.max())))
        figure.suptitle(f"{scenario.name}: {scenario.title if not rate else 'open load'}")
        figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
