"""Draws docs/probability_bins.svg: the stand-in's probability bins compared with the published ones.

    python scripts/make_charts.py [data/train.csv]

Rows are sorted by their probability of the positive class and divided into bins of equal size. The chart shows the share
of positives in each bin and the probabilities that it spans. The stand-in's rows are scored by model_components, as in the
service. The same table makes the same file, byte for byte.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
from matplotlib.ticker import PercentFormatter

from serve_app.components.compiled import Components
from serve_app.components.loading import load_components
from serve_app.config import PROJECT_ROOT
from serve_app.exercise.published_model import load_published_model
from stress.charts import BLUE, GREY, draw_grid, saved_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

TABLE = PROJECT_ROOT / "data" / "train.csv"
COMPONENTS = PROJECT_ROOT / "model_components"
CHART = PROJECT_ROOT / "docs" / "probability_bins.svg"

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

    with saved_figure(chart, size=(9.0, 6.5), salt=CHART.stem) as figure:
        shares, spans = figure.subplots(2, 1, sharex=True)
        figure.suptitle("Probability bins: the stand-in's training table beside the published one")
        for place, colour, label, bins in (
            (-0.5, GREY, f"published ({given.rows_per_bin:,} rows per bin)", expected),
            (0.5, BLUE, f"stand-in ({len(probabilities) // len(given.positives):,} rows per bin)", found),
        ):
            at = np.arange(1, len(bins.positive_shares) + 1) + place * BAR_WIDTH
            shares.bar(at, bins.positive_shares, BAR_WIDTH, color=colour, label=label)
            spans.bar(at, np.diff(bins.edges), BAR_WIDTH, bottom=bins.edges[:-1], color=colour, label=label)
        label_axes(shares, spans, len(given.positives))
    return found


def label_axes(shares: Axes, spans: Axes, bins: int) -> None:
    """Labels and scales of the two panels."""
    shares.set_ylabel("share of positives in the bin")
    shares.legend(loc="upper left", frameon=False)
    spans.set_ylabel("probabilities that the bin spans")
    spans.set_xlabel("bin, by rising probability of the positive class")
    spans.set_xticks(range(1, bins + 1))
    draw_grid((shares, spans))
    for axes in (shares, spans):
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))


def score_table(table: Path, target: str, components: Components) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Whether each row of ``table`` is positive, and the probability that it is; both of shape (rows,)."""
    names = components.manifest.selected_features
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    body = msgspec.json.encode([{name: row[name] or None for name in names} for row in rows])
    values = np.concatenate([chunk.values for chunk in components.parser(max_rows=len(rows)).chunks(body)])
    probabilities = components.score(values)[:, 1]
    positive = str(components.manifest.classes[1])
    return np.array([row[target] == positive for row in rows]), probabilities


def cut_into_bins(is_positive: NDArray[np.bool_], probabilities: NDArray[np.float64], count: int) -> Bins:
    """``count`` bins of equal size, by rising probability."""
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
