"""How replicas follow the load: their number over time, beside the load, what waits, and how long.

Owns the sampling of the Ray dashboard, ``replicas.csv``, and the picture. What a service does about its load is not.
"""

from __future__ import annotations

import csv
import threading
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from stress.chart import STYLE
from stress.errors import StressError
from stress.records import Records, make_timeline
from stress.service import count_replicas

__all__ = ["ReplicaSampler", "Replicas", "draw_scaling", "in_flight"]

_INTERVAL_S = 0.5
_COLOURS = {"Preprocessor": "#2f6db5", "Classifier": "#c77f2a"}


@dataclass(frozen=True)
class Replicas:
    """``counts`` holds the running replicas of each deployment at ``at_s``, in seconds since the load began."""

    at_s: list[float]
    counts: dict[str, list[int]]

    def summary(self, deployment: str) -> str:
        """How many there were, and how often that changed."""
        found = self.counts[deployment]
        changes = sum(before != after for before, after in pairwise(found))
        return f"{deployment} replicas: {found[0]} before, at most {max(found)}, {found[-1]} at the end; {changes} changes"


class ReplicaSampler:
    """Asks the dashboard twice a second, from the moment that ``begin`` exists to the end of the block; writes ``path``.

    Args:
        dashboard: URL of the Ray dashboard.
        token: what it asks for, if it does.
        begin: a file that the load makes when it begins.
        path: ``replicas.csv``.
    """

    def __init__(self, dashboard: str, token: str | None, begin: Path, path: Path) -> None:
        self._dashboard = dashboard
        self._token = token
        self._begin = begin
        self._path = path
        self._samples: list[tuple[float, dict[str, int]]] = []
        self._failure: StressError | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> Self:
        count_replicas(self._dashboard, self._token)  # a dashboard that does not answer is told before the load begins
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._is_over.set()
        self._thread.join()

    def replicas(self) -> Replicas:
        """What was found.

        Raises:
            StressError: the dashboard did not answer, all along.
        """
        if not self._samples:
            raise self._failure or StressError("the load never began")
        names = sorted({name for _, counts in self._samples for name in counts}, reverse=True)
        counts = {name: [sample.get(name, 0) for _, sample in self._samples] for name in names}
        return Replicas([at for at, _ in self._samples], counts)

    def _sample(self) -> None:
        while not self._begin.exists():
            if self._is_over.wait(0.05):
                return
        started = time.monotonic()
        with self._path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("at_s", "deployment", "replicas"))
            while True:
                try:
                    at, counts = time.monotonic() - started, count_replicas(self._dashboard, self._token)
                except StressError as error:  # the machine may be too busy to answer now and then
                    self._failure = error
                else:
                    self._samples.append((at, counts))
                    writer.writerows((f"{at:.2f}", name, count) for name, count in counts.items())
                if self._is_over.wait(_INTERVAL_S):
                    return


def in_flight(records: Records, moments: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many calls had been made and not answered yet, at each of ``moments``, in seconds; of the same shape."""
    begun = np.sort(records.due_s)
    ended = np.sort(records.due_s + records.ms / 1000)
    found: NDArray[np.int64] = np.searchsorted(begun, moments, "right") - np.searchsorted(ended, moments, "right")
    return found


def draw_scaling(records: Records, replicas: Replicas, *, title: str, path: Path) -> None:
    """Draws ``path`` in the format of its suffix: load, queue, replicas and latency over time."""
    end = max(records.seconds, replicas.at_s[-1])
    timeline = make_timeline(records, end)
    moments = np.linspace(0, end, 600)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 8.0), layout="constrained")
        FigureCanvasAgg(figure)
        load, queue, count, latency = figure.subplots(4, 1, sharex=True, height_ratios=(2, 2, 1.6, 2))
        load.stairs(timeline.calls_per_s, timeline.edges, color="#2f6db5", fill=True, alpha=0.85)
        load.set_title("calls answered as expected, per second")
        queue.fill_between(moments, in_flight(records, moments), color="#7f8794", alpha=0.7, linewidth=0)
        queue.set_title("calls that wait for their answer")
        for name, counts in replicas.counts.items():
            count.step(replicas.at_s, counts, where="post", label=name, color=_COLOURS.get(name), linewidth=1.8)
        count.set_title("running replicas")
        count.yaxis.get_major_locator().set_params(integer=True)
        count.legend(loc="lower right", bbox_to_anchor=(1, 0.95), frameon=False, ncols=2)
        for percent, colour in ((50, "#9ec1e6"), (99, "#16365c")):
            values = timeline.percentiles_ms[percent]
            latency.stairs(values, timeline.edges, baseline=None, color=colour, linewidth=1.6, label=f"p{percent}")
        latency.set_title("latency, ms")
        latency.legend(loc="lower right", bbox_to_anchor=(1, 0.95), frameon=False, ncols=2)
        latency.set_xlabel("seconds")
        for axes in (load, queue, count, latency):
            axes.set_ylim(bottom=0)
            axes.grid(axis="y", color="#e3e6ea", linewidth=0.8)
            axes.set_axisbelow(True)
        figure.suptitle(title)
        figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
