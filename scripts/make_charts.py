"""Draws docs/probability_bins.svg: the stand-in's probability bins beside the published ones.

    python scripts/make_charts.py [data/train.csv]

Rows are sorted by their probability of the positive class and cut into bins of equally many: the chart shows the share
of positives in each, and the probabilities that it spans. The stand-in's rows are scored by model_components, as the
service scores them. The same table makes the same file, byte for byte.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib as mpl
import msgspec
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from serve_app.components.compiled import Components
from serve_app.components.loading import load_components
from serve_app.config import PROJECT_ROOT
from serve_app.exercise.published_model import load_published_model

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

TABLE = PROJECT_ROOT / "data" / "train.csv"
COMPONENTS = PROJECT_ROOT / "model_components"
CHART = PROJECT_ROOT / "docs" / "probability_bins.svg"

STYLE: dict[Any, Any] = {
    "svg.hashsalt": CHART.stem,
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
PUBLISHED_COLOUR, STAND_IN_COLOUR = "#b0b7c3", "#2f6db5"
BAR_WIDTH = 0.4


class Bins(NamedTuple):
    """``edges`` has shape (bins + 1,): probabilities; ``positive_shares`` has shape (bins,)."""

    edges: NDArray[np.float64]
    positive_shares: NDArray[np.float64]


def draw_probability_bins(table: Path = TABLE, components: Path = COMPONENTS, chart: Path = CHART) -> Bins:
    """Draws ``chart`` in the format of its suffix, and returns the bins of ``table``."""
    published = load_published_model()
    given = published.published_probability_bins
    expected = Bins(np.array(given.edges), np.array(given.positives) / given.rows_per_bin)
    is_positive, probabilities = score_table(table, published.target, load_components(components))
    found = cut_into_bins(is_positive, probabilities, len(given.positives))

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 6.5), layout="constrained")
        FigureCanvasAgg(figure)
        shares, spans = figure.subplots(2, 1, sharex=True)
        figure.suptitle("Probability bins: the stand-in's training table beside the published one")
        for place, colour, label, bins in (
            (-0.5, PUBLISHED_COLOUR, f"published ({given.rows_per_bin:,} rows per bin)", expected),
            (0.5, STAND_IN_COLOUR, f"stand-in ({len(probabilities) // len(given.positives):,} rows per bin)", found),
        ):
            at = np.arange(1, len(bins.positive_shares) + 1) + place * BAR_WIDTH
            shares.bar(at, bins.positive_shares, BAR_WIDTH, color=colour, label=label)
            spans.bar(at, np.diff(bins.edges), BAR_WIDTH, bottom=bins.edges[:-1], color=colour, label=label)
        label_axes(shares, spans, len(given.positives))
        figure.savefig(chart, dpi=110, metadata={"Date": None} if chart.suffix == ".svg" else None)
    return found


def label_axes(shares: Axes, spans: Axes, bins: int) -> None:
    """What the two panels say, and their scales."""
    shares.set_ylabel("share of positives in the bin")
    shares.legend(loc="upper left", frameon=False)
    spans.set_ylabel("probabilities that the bin spans")
    spans.set_xlabel("bin, by rising probability of the positive class")
    spans.set_xticks(range(1, bins + 1))
    for axes in (shares, spans):
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.grid(axis="y", color="#e3e6ea", linewidth=0.8)
        axes.set_axisbelow(True)


def score_table(table: Path, target: str, components: Components) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Of each row of ``table`` whether it is positive and the probability that it is: both of shape (rows,)."""
    names = components.manifest.selected_features
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    body = msgspec.json.encode([{name: row[name] or None for name in names} for row in rows])
    values = np.concatenate([chunk.values for chunk in components.parser(max_rows=len(rows)).chunks(body)])
    probabilities = components.score(values)[:, 1]
    positive = str(components.manifest.classes[1])
    return np.array([row[target] == positive for row in rows]), probabilities


def cut_into_bins(is_positive: NDArray[np.bool_], probabilities: NDArray[np.float64], count: int) -> Bins:
    """``count`` bins of equally many rows, by rising probability."""
    order = np.argsort(probabilities, kind="stable")
    bins = np.array_split(order, count)
    edges = [probabilities[order[0]], *(probabilities[rows[-1]] for rows in bins)]
    return Bins(np.array(edges), np.array([is_positive[rows].mean() for rows in bins]))


def main() -> None:
    """The command line."""
    arguments = argparse.ArgumentParser(description="Draws docs/probability_bins.svg.")
    arguments.add_argument("table", type=Path, nargs="?", default=TABLE)
    draw_probability_bins(arguments.parse_args().table)


if __name__ == "__main__":
    main()
