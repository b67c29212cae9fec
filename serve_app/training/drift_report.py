"""The drift of a file of rows against the training rows, as a page: one plot for the score and for each column.

Owns what the page shows and in which order. What drift is, is scoring/drift.py's business.
"""

from __future__ import annotations

from pathlib import Path

from serve_app.components.manifest import Manifest
from serve_app.scoring.distribution import Bins
from serve_app.scoring.drift import DriftReport
from serve_app.training import plots
from serve_app.training.pages import can_write_pages, write_page

__all__ = ["write_drift_report"]


def write_drift_report(path: Path, manifest: Manifest, found: DriftReport) -> str:
    """Writes what ``drift.compare`` found as a page; returns a sentence that says so, or why there is no page.

    Raises:
        ValueError: the model has no distribution of training rows, or there were no rows to compare.
    """
    if not can_write_pages():
        return "There is no page: it needs the packages that make install-data installs."
    distribution = manifest.distribution
    if not distribution or not found.score:
        raise ValueError("there is nothing to draw")
    compared = [(name, bins, found.columns[name]) for name, bins in distribution.columns.items()]
    compared.sort(key=lambda one: -one[2].psi)
    compared.insert(0, ("score", distribution.score, found.score))
    with plots.plot_style():
        sections = [
            (name, one.psi, one.verdict, plots.shares(_bin_names(bins), bins.shares, one.shares))
            for name, bins, one in compared
        ]
    write_page(path, "drift.html", manifest=manifest, rows=found.rows, training_rows=distribution.rows, sections=sections)
    return f"{path}: the page"


def _bin_names(bins: Bins) -> list[str]:
    edges = [f"≤ {edge:.4g}" for edge in bins.edges] + [f"> {bins.edges[-1]:.4g}"] if bins.edges else list(bins.levels)
    return [*edges, "missing"]
