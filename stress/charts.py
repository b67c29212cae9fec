"""The charts of load tests, and the style of every chart of this project. The same data make the same file, byte for byte."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stress.records import Records, Timeline, duration, make_timeline
from stress.scaling import in_flight
from stress.scenarios import Scenario

__all__ = ["BLUE", "GREY", "draw_grid", "draw_run", "draw_scaling", "saved_figure"]

BLUE, GREY = "#2f6db5", "#b0b7c3"
_DARK_GREY, _RED = "#7f8794", "#c0392b"
_PERCENTILES = {50: "#9ec1e6", 95: BLUE, 99: "#16365c"}
_DEPLOYMENTS = {"Preprocessor": BLUE, "Classifier": "#c77f2a"}


@contextlib.contextmanager
def saved_figure(path: Path, *, size: tuple[float, float] = (9.0, 8.0), salt: str = "stress") -> Iterator[Figure]:
    """An empty figure of ``size`` inches that is saved to ``path``, in the format of its suffix, when the block succeeds."""
    style: dict[Any, Any] = {
        "svg.hashsalt": salt,  # makes identifiers reproducible
        "font.size": 10.0,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": "medium",
        "axes.titlelocation": "left",
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)


def draw_grid(panels: Sequence[Axes]) -> None:
    """Horizontal lines and a scale that begins at zero."""
    for axes in panels:
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", color="#e3e6ea", linewidth=0.8)
        axes.set_axisbelow(True)


def draw_run(timeline: Timeline, scenario: Scenario, *, rate: float, path: Path) -> None:
    """Throughput, latency, failures and users over time. ``rate`` is that of an open load, or 0 for a load by users."""
    with saved_figure(path) as figure:
        calls, latency, failures, users = figure.subplots(4, 1, sharex=True, height_ratios=(3, 3, 1.2, 1.2))
        _draw_throughput(calls, timeline)
        _draw_latency(latency, timeline, (50, 95, 99))
        failures.stairs(timeline.failures_per_s, timeline.edges, color=_RED, fill=True)
        failures.set_title("failures per second")
        if rate:
            users.axhline(rate, color=_DARK_GREY)
            users.set_title("calls per second that were due")
        else:
            at = np.linspace(0, scenario.seconds, 500, endpoint=False)
            users.plot(at, [scenario.users_at(float(moment)) for moment in at], color=_DARK_GREY)
            users.set_title("users, as planned")
        users.set_xlabel("seconds")
        draw_grid((calls, latency, failures, users))
        failures.set_ylim(top=max(1.0, 1.1 * float(timeline.failures_per_s.max())))
        figure.suptitle(f"{scenario.name}: {scenario.title if not rate else 'open load'}")


def draw_scaling(records: Records, replicas: pd.DataFrame, *, title: str, path: Path) -> None:
    """Throughput, queue, replicas and latency over time."""
    end = max(duration(records), replicas.index[-1])
    timeline = make_timeline(records, end)
    moments = np.linspace(0, end, 600)
    with saved_figure(path) as figure:
        calls, queue, count, latency = figure.subplots(4, 1, sharex=True, height_ratios=(2, 2, 1.6, 2))
        _draw_throughput(calls, timeline)
        queue.fill_between(moments, in_flight(records, moments), color=_DARK_GREY, alpha=0.7, linewidth=0)
        queue.set_title("calls that wait for their answer")
        for name, counts in replicas.items():
            count.step(counts.index, counts, where="post", label=name, color=_DEPLOYMENTS.get(str(name)), linewidth=1.8)
        count.set_title("running replicas")
        count.yaxis.get_major_locator().set_params(integer=True)
        _draw_legend(count)
        _draw_latency(latency, timeline, (50, 99))
        latency.set_xlabel("seconds")
        draw_grid((calls, queue, count, latency))
        figure.suptitle(title)


def _draw_throughput(axes: Axes, timeline: Timeline) -> None:
    axes.stairs(timeline.calls_per_s, timeline.edges, color=BLUE, fill=True, alpha=0.85)
    axes.set_title("calls answered as expected, per second")


def _draw_latency(axes: Axes, timeline: Timeline, percents: Sequence[int]) -> None:
    for percent in percents:
        values = timeline.percentiles_ms[percent]
        axes.stairs(values, timeline.edges, baseline=None, color=_PERCENTILES[percent], linewidth=1.6, label=f"p{percent}")
    axes.set_title("latency, ms")
    _draw_legend(axes)


def _draw_legend(axes: Axes) -> None:
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.95), frameon=False, ncols=3)
