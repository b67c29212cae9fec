"""The report on a trained model, as a page: what it shows, section by section.

Owns the figures that only the page shows (deciles, confusion matrices, intervals, what each column holds). Everything is
measured on the held-back rows unless a heading says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serve_app.components.manifest import Manifest
from serve_app.scoring.arrays import Array
from serve_app.scoring.schema import Column
from serve_app.training import plots
from serve_app.training.importance import importances
from serve_app.training.pages import can_write_pages, write_page
from serve_app.training.results import Evidence, TrainingReport

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["write_report"]

_THRESHOLDS = np.arange(1, 20) / 20
_MOST_SHOWN = 30
_MOST_LEVELS = 8
_INTERVAL = 1.96  # standard errors on each side of a coefficient: 95 %


class _Decile(NamedTuple):
    """A tenth of the rows by probability; shares are of the rows, ``found`` of all positives so far."""

    rows: int
    lowest: float
    highest: float
    positive_share: float
    lift: float
    found: float


class _Confusion(NamedTuple):
    """Counts of rows at one threshold."""

    threshold: float
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int


class _Coefficient(NamedTuple):
    """``error`` is None if it is infinite or unknown."""

    feature: str
    value: float
    error: float | None

    @property
    def half_width(self) -> float:
        """Half the width of the 95 % interval; 0 if there is none."""
        return _INTERVAL * (self.error or 0.0)


class _ColumnRow(NamedTuple):
    """A column of the table, and what its cells hold, in words."""

    name: str
    kind: str
    is_used: bool
    missing: float | None
    holds: str


def write_report(path: Path, manifest: Manifest, report: TrainingReport) -> str:
    """Writes the page; returns a sentence that says so, or why there is no page."""
    if not can_write_pages():
        return "There is no report: it needs the packages that make install-data installs."
    evidence = report.evidence
    classes, probabilities = evidence.classes[evidence.held_back], evidence.probabilities
    is_binary = len(manifest.classes) == 2
    deciles = list(_deciles(probabilities[:, 1], classes == 1)) if is_binary else []
    coefficients = list(_coefficients(report))
    with plots.plot_style():
        write_page(
            path,
            "report.html",
            manifest=manifest,
            report=report,
            is_binary=is_binary,
            ranking=plots.ranking(evidence.class_names, classes, probabilities),
            calibration=plots.calibration(evidence.class_names, classes, probabilities),
            deciles=deciles,
            lift=plots.lift([decile.lift for decile in deciles], [decile.found for decile in deciles]) if deciles else "",
            thresholds=_by_threshold(probabilities[:, 1], classes == 1, manifest.threshold) if is_binary else [],
            confusion=_confusion(evidence, classes),
            coefficients=coefficients,
            coefficient_plot=_coefficient_plot(coefficients) if coefficients else "",
            importances=plots.importances(dict(list(importances(evidence).items())[:_MOST_SHOWN])),
            columns=list(_columns(manifest, report)),
        )
    return f"{path}: the report"


def _deciles(positive: Array, truth: NDArray[np.bool_]) -> Iterator[_Decile]:
    order = np.argsort(-positive, kind="stable")
    found = 0
    for group in np.array_split(order, 10):
        found += int(truth[group].sum())
        share = float(truth[group].mean())
        yield _Decile(
            rows=len(group),
            lowest=float(positive[group].min()),
            highest=float(positive[group].max()),
            positive_share=share,
            lift=share / float(truth.mean()),
            found=found / int(truth.sum()),
        )


def _by_threshold(positive: Array, truth: NDArray[np.bool_], chosen: float) -> list[_Confusion]:
    found = []
    for threshold in sorted({*_THRESHOLDS.tolist(), chosen}):
        said = positive >= threshold
        counts = [(said & truth).sum(), (said & ~truth).sum(), (~said & truth).sum(), (~said & ~truth).sum()]
        found.append(_Confusion(threshold, *map(int, counts)))
    return found


def _confusion(evidence: Evidence, classes: NDArray[np.intp]) -> list[list[int]]:
    """Counts of held-back rows: a row for each true class, a column for each predicted one."""
    counts = np.zeros((len(evidence.class_names),) * 2, dtype=np.int64)
    np.add.at(counts, (classes, evidence.probabilities.argmax(axis=1)), 1)
    matrix: list[list[int]] = counts.tolist()
    return matrix


def _coefficients(report: TrainingReport) -> Iterator[_Coefficient]:
    for name, value in list(report.coefficients.items())[:_MOST_SHOWN]:
        error = report.standard_errors.get(name, np.inf)
        yield _Coefficient(name, value, error if np.isfinite(error) else None)


def _coefficient_plot(coefficients: list[_Coefficient]) -> Markup:
    has_errors = any(one.error is not None for one in coefficients)
    return plots.intervals(
        {one.feature: one.value for one in coefficients},
        [one.half_width for one in coefficients],
        label="coefficient and 95 % interval" if has_errors else "coefficient (penalised, so without intervals)",
    )


def _columns(manifest: Manifest, report: TrainingReport) -> Iterator[_ColumnRow]:
    evidence = report.evidence
    fitted = evidence.values[evidence.fitted]
    for index, column in enumerate(manifest.schema.columns):
        cells = fitted[:, index]
        is_used = column.name in manifest.selected_features
        yield _ColumnRow(column.name, column.kind, is_used, float(np.isnan(cells).mean()), _held(column, cells))
    for name, reason in report.left_out.items():
        yield _ColumnRow(name, "left out", is_used=False, missing=None, holds=reason)


def _held(column: Column, cells: Array) -> str:
    """The most frequent levels of a category, or three quantiles of a number."""
    known = cells[~np.isnan(cells)]
    if not column.is_categorical:
        return " … ".join(f"{quantile:g}" for quantile in np.quantile(known, [0.05, 0.5, 0.95]))
    counts = np.bincount(known.astype(np.intp), minlength=len(column.levels))
    order = np.argsort(-counts, kind="stable")[:_MOST_LEVELS]
    return ", ".join(f"{column.levels[code]} {counts[code] / len(cells):.1%}" for code in order)
