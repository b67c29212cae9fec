"""report.html: what training found, to be looked at. One file without links; the plots are SVG within it.

Owns the page, its plots and the importances that it shows. Plots take matplotlib, which serving does not: where it is not
installed there is no report, and whoever asked for one is told.
"""

from __future__ import annotations

import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.atomic_files import replacing
from serve_app.components.manifest import Manifest
from serve_app.scoring.arrays import Array
from serve_app.scoring.distribution import Bins
from serve_app.scoring.drift import BinsDrift, DriftReport
from serve_app.training.evaluation import measure
from serve_app.training.results import Evidence, TrainingReport

__all__ = ["importances", "write_drift_report", "write_report"]

_IMPORTANCE_ROWS = 2000
_THRESHOLDS = np.arange(1, 20) / 20
_MOST_SHOWN = 30
_PLOTS: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "report", "font.size": 9.0}
_STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 }
td, th { padding: .2em .8em; border-bottom: 1px solid #ddd; text-align: right }
td:first-child, th:first-child { text-align: left }
svg { max-width: 100%; height: auto }
.warning { background: #fde8d8; padding: .5em 1em }
"""


def write_report(path: Path, manifest: Manifest, report: TrainingReport) -> str:
    """Writes the page and says so in a sentence; or says why there is none.

    Everything is measured on the rows that were held back, unless a heading says otherwise.
    """
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        return "There is no report: its plots take matplotlib, which make install-data installs."
    with mpl.rc_context(_PLOTS):
        sections = list(_sections(manifest, report))
    _write_page(path, f"{manifest.name} {manifest.version}", _intro(manifest, report), sections)
    return f"{path}: the report"


def write_drift_report(path: Path, manifest: Manifest, found: DriftReport) -> str:
    """Writes the drift of a file's rows as a page and returns a sentence that says so, or why there is no page."""
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        return "There is no page: its plots take matplotlib, which make install-data installs."
    distribution = manifest.distribution
    if not distribution or not found.score:
        raise ValueError("there is nothing to draw")
    pairs = [(name, bins, found.columns[name]) for name, bins in distribution.columns.items()]
    pairs = [("score", distribution.score, found.score), *sorted(pairs, key=lambda pair: -pair[2].psi)]
    with mpl.rc_context(_PLOTS):
        sections = [(f"{name}: {one.psi:.4f}, {one.verdict}", _shares_plot(bins, one)) for name, bins, one in pairs]
    said = f"Population stability index of {found.rows:,} rows beside the {distribution.rows:,} that trained the model."
    _write_page(path, f"Drift of {manifest.name} {manifest.version}", f"<p>{html.escape(said)}</p>", sections)
    return f"{path}: the page"


def _shares_plot(bins: Bins, found: BinsDrift) -> str:
    named = (
        [f"≤ {edge:.4g}" for edge in bins.edges] + [f"> {bins.edges[-1]:.4g}"] if bins.edges else list(map(_plain, bins.levels))
    )
    figure, (axes,) = _figure(1, height=2.4)
    places = np.arange(len(bins.shares))
    axes.bar(places - 0.2, bins.shares, 0.4, label="training")
    axes.bar(places + 0.2, found.shares, 0.4, label="now")
    axes.set_xticks(places, [*named, "missing"], rotation=30, ha="right", fontsize=7)
    axes.legend(fontsize=7)
    return _svg(figure)


def _write_page(path: Path, title: str, intro: str, sections: Iterable[tuple[str, str]]) -> None:
    body = "\n".join(f"<h2>{html.escape(heading)}</h2>\n{content}" for heading, content in sections)
    name = html.escape(title)
    with replacing(path) as file:
        file.write(f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title><style>{_STYLE}</style>')
        file.write(f"</head><body>\n<h1>{name}</h1>\n{intro}\n{body}\n</body></html>\n")


def importances(evidence: Evidence, seed: int = 0) -> dict[str, float]:
    """How much of the AUC is lost when one column's cells are shuffled among at most 2,000 of the rows held back."""
    random = np.random.default_rng(seed)
    rows = evidence.held_back
    if len(rows) > _IMPORTANCE_ROWS:
        rows = _stratified(rows, evidence.classes[rows], random)
    values, classes = evidence.values[rows], evidence.classes[rows]
    whole = measure(classes, evidence.score(values), 0.5)["auc"]
    lost = {}
    for index, column in enumerate(evidence.schema.columns):
        shuffled = values.copy()
        shuffled[:, index] = random.permutation(shuffled[:, index])
        lost[column.name] = whole - measure(classes, evidence.score(shuffled), 0.5)["auc"]
    return dict(sorted(lost.items(), key=lambda item: -item[1]))


def _stratified(rows: NDArray[np.intp], classes: NDArray[np.intp], random: np.random.Generator) -> NDArray[np.intp]:
    """Some of the rows, a share of each class and at least one."""
    share = _IMPORTANCE_ROWS / len(rows)
    members = [rows[classes == label] for label in np.unique(classes)]
    return np.concatenate([random.choice(some, max(1, round(share * len(some))), replace=False) for some in members])


def _intro(manifest: Manifest, report: TrainingReport) -> str:
    rule = report.threshold_rule.as_json()
    told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in rule.items())
    threshold = (
        f" Counts as {manifest.classes[1]} from {manifest.threshold:.4f} on ({told})." if len(manifest.classes) == 2 else ""
    )
    warnings = "".join(
        f'<p class="warning">{html.escape(column)} alone gives an AUC of {auc:.4f}: was it known before the target was?</p>'
        for column, auc in report.leaks.items()
    )
    said = (
        f"Predicts {manifest.target} by the method {report.method}, fitted on {report.train_rows:,} rows; "
        f"{report.validation_rows:,} rows were held back and not looked at before this page.{threshold}"
    )
    return f"<p>{html.escape(said)}</p>{warnings}"


def _sections(manifest: Manifest, report: TrainingReport) -> Iterable[tuple[str, str]]:
    evidence = report.evidence
    classes = evidence.classes[evidence.held_back]
    yield "Figures", _figures(report)
    yield "Class balance", _table(["class", "training rows"], [[name, f"{x:.2%}"] for name, x in report.class_shares.items()])
    yield "ROC and precision-recall", _ranking_plots(evidence, classes)
    yield "Calibration", _calibration_plot(evidence, classes)
    if len(manifest.classes) == 2:
        positive = evidence.probabilities[:, 1]
        yield "Lift and deciles", _deciles(positive, classes == 1)
        yield "Confusion matrix by threshold", _confusion_by_threshold(positive, classes == 1, manifest.threshold)
    else:
        yield "Confusion matrix", _confusion(evidence, classes)
    if report.coefficients:
        yield "Coefficients", _coefficients(report)
    yield "Importances", _importance_plot(evidence)
    yield "Columns", _columns(manifest, report)


def _figures(report: TrainingReport) -> str:
    names = {"auc": "AUC", "log_loss": "log loss", "accuracy": "accuracy"}
    rows = [
        [title, *(f"{getattr(report, f'{part}_{name}'):.4f}" for name in names)]
        for part, title in (("train", "rows fitted on"), ("validation", "rows held back"))
    ]
    folds = report.cross_validation
    if folds is not None:
        spread = [f"{folds.means[name]:.4f} ± {folds.deviations[name]:.4f}" for name in names]
        rows.append([f"{folds.folds} folds, mean ± standard deviation", *spread])
    return _table(["", *names.values()], rows)


def _ranking_plots(evidence: Evidence, classes: NDArray[np.intp]) -> str:
    from sklearn.metrics import precision_recall_curve, roc_curve

    figure, (left, right) = _figure(2)
    for label, name in _shown_classes(evidence):
        scores = evidence.probabilities[:, label]
        false_positive, true_positive, _ = roc_curve(classes == label, scores)
        precision, recall, _ = precision_recall_curve(classes == label, scores)
        left.plot(false_positive, true_positive, label=name)
        right.plot(recall, precision, label=name)
    left.plot([0, 1], [0, 1], color="0.7", linestyle=":")
    left.set(xlabel="false positive rate", ylabel="true positive rate")
    right.set(xlabel="recall", ylabel="precision", ylim=(0, 1.02))
    left.legend(fontsize=7)
    return _svg(figure)


def _calibration_plot(evidence: Evidence, classes: NDArray[np.intp]) -> str:
    from sklearn.calibration import calibration_curve

    figure, (axes,) = _figure(1)
    axes.plot([0, 1], [0, 1], color="0.7", linestyle=":")
    for label, name in _shown_classes(evidence):
        share, mean = calibration_curve(classes == label, evidence.probabilities[:, label], n_bins=10, strategy="quantile")
        axes.plot(mean, share, marker="o", label=name)
    axes.set(xlabel="mean probability of ten groups of rows", ylabel="share of the class in them")
    axes.legend(fontsize=7)
    return _svg(figure)


def _deciles(positive: Array, truth: NDArray[np.bool_]) -> str:
    order = np.argsort(-positive, kind="stable")
    groups = np.array_split(order, 10)
    overall = truth.mean()
    lifts = [truth[group].mean() / overall for group in groups]
    found = np.cumsum([truth[group].sum() for group in groups]) / truth.sum()
    figure, (left, right) = _figure(2)
    left.bar(np.arange(1, 11), lifts)
    left.axhline(1, color="0.6", linestyle=":")
    left.set(xlabel="tenth of the rows, the most probable first", ylabel="lift")
    right.plot(np.arange(11) / 10, [0, *found], marker="o")
    right.plot([0, 1], [0, 1], color="0.7", linestyle=":")
    right.set(xlabel="share of rows", ylabel="share of all positives in them")
    rows = [
        [
            str(number),
            f"{len(group):,}",
            f"{positive[group].min():.4f} to {positive[group].max():.4f}",
            f"{truth[group].mean():.2%}",
            f"{lift:.2f}",
            f"{reached:.2%}",
        ]
        for number, (group, lift, reached) in enumerate(zip(groups, lifts, found, strict=True), 1)
    ]
    header = ["tenth", "rows", "probabilities", "positive", "lift", "of all positives, so far"]
    return _svg(figure) + _table(header, rows)


def _confusion_by_threshold(positive: Array, truth: NDArray[np.bool_], chosen: float) -> str:
    rows = []
    for threshold in sorted({*_THRESHOLDS.tolist(), chosen}):
        said = positive >= threshold
        hits, false = int((said & truth).sum()), int((said & ~truth).sum())
        missed, right = int((~said & truth).sum()), int((~said & ~truth).sum())
        precision = f"{hits / (hits + false):.2%}" if hits + false else ""
        name = f"{threshold:.4f}" + (" (chosen)" if threshold == chosen else "")
        rows.append([name, f"{hits:,}", f"{false:,}", f"{missed:,}", f"{right:,}", precision, f"{hits / truth.sum():.2%}"])
    header = ["threshold", "true positives", "false positives", "false negatives", "true negatives", "precision", "recall"]
    return _table(header, rows)


def _confusion(evidence: Evidence, classes: NDArray[np.intp]) -> str:
    names = evidence.class_names
    counts = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(counts, (classes, evidence.probabilities.argmax(axis=1)), 1)
    rows = [[name, *map(str, row)] for name, row in zip(names, counts.tolist(), strict=True)]
    return _table(["true class, and what it was taken for", *names], rows)


def _coefficients(report: TrainingReport) -> str:
    shown = list(report.coefficients.items())[:_MOST_SHOWN]
    figure, (axes,) = _figure(1, height=0.25 * len(shown) + 1)
    errors = [report.standard_errors.get(name, np.nan) for name, _ in shown]
    widths = [1.96 * error if np.isfinite(error) else 0.0 for error in errors]
    places = np.arange(len(shown))[::-1]
    axes.errorbar([value for _, value in shown], places, xerr=widths, fmt="o", capsize=2)
    axes.axvline(0, color="0.6", linestyle=":")
    axes.set_yticks(places, [_plain(name) for name, _ in shown])
    axes.set(xlabel="coefficient and 95 % interval" if report.standard_errors else "coefficient (penalised: no intervals)")
    rows = [
        [name, f"{value:+.4f}", f"{error:.4f}" if np.isfinite(error) else "", _interval(value, error)]
        for (name, value), error in zip(shown, errors, strict=True)
    ]
    return _svg(figure) + _table(["feature", "coefficient", "standard error", "95 % interval"], rows)


def _interval(value: float, error: float) -> str:
    return f"{value - 1.96 * error:+.4f} to {value + 1.96 * error:+.4f}" if np.isfinite(error) else ""


def _importance_plot(evidence: Evidence) -> str:
    lost = list(importances(evidence).items())[:_MOST_SHOWN]
    figure, (axes,) = _figure(1, height=0.25 * len(lost) + 1)
    axes.barh(np.arange(len(lost))[::-1], [value for _, value in lost])
    axes.set_yticks(np.arange(len(lost))[::-1], [_plain(name) for name, _ in lost])
    axes.set(xlabel="AUC that is lost when the column is shuffled")
    return _svg(figure)


def _columns(manifest: Manifest, report: TrainingReport) -> str:
    evidence = report.evidence
    fitted = evidence.values[evidence.fitted]
    rows = []
    for index, column in enumerate(manifest.schema.columns):
        cells = fitted[:, index]
        known = cells[~np.isnan(cells)]
        if column.is_categorical:
            counts = np.bincount(known.astype(np.intp), minlength=len(column.levels))
            order = np.argsort(-counts, kind="stable")[:8]
            held = ", ".join(f"{column.levels[code]} {counts[code] / len(cells):.1%}" for code in order)
        else:
            low, middle, high = np.quantile(known, [0.05, 0.5, 0.95])
            held = f"{low:g} … {middle:g} … {high:g}"
        used = "yes" if column.name in manifest.selected_features else "no"
        rows.append([column.name, column.kind, used, f"{np.isnan(cells).mean():.2%}", held])
    rows += [[name, "left out", "no", "", why] for name, why in report.left_out.items()]
    return _table(["column", "kind", "used", "missing", "5 %, median and 95 %, or shares of levels"], rows)


def _shown_classes(evidence: Evidence) -> list[tuple[int, str]]:
    """Of two classes the positive one, else up to ten."""
    named = list(enumerate(map(_plain, evidence.class_names)))
    return named[1:] if len(named) == 2 else named[:10]


def _plain(text: str) -> str:
    """A text that matplotlib takes for neither mathematics nor a name to hide."""
    return text.replace("$", r"\$").removeprefix("_") or "(no name)"


def _figure(count: int, height: float = 3.2) -> tuple[Any, Sequence[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * count if count > 1 else 6, height), layout="constrained")
    return figure, list(np.ravel(figure.subplots(1, count)))


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f"<table><tr>{cells}</tr>\n{lines}</table>"
