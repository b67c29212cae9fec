"""Plots for pages, as SVG. Needs matplotlib, which serving does not.

Owns what each plot looks like; what it shows is computed elsewhere. Each function returns markup that is safe to put in a page.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from serve_app.scoring.arrays import Array

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["calibration", "importances", "intervals", "lift", "plot_style", "ranking", "shares"]

_MAX_CLASSES = 10
_STYLE: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "report", "font.size": 9.0}


def plot_style() -> AbstractContextManager[None]:
    """The settings of matplotlib that all plots of a page are drawn with."""
    import matplotlib as mpl

    return mpl.rc_context(_STYLE)


def ranking(class_names: Sequence[str], classes: NDArray[np.intp], probabilities: Array) -> Markup:
    """The ROC and the precision-recall curve of the positive class, or of up to ten classes.

    Args:
        class_names: in the order of the probabilities.
        classes: the position of each row's class, shape (rows,).
        probabilities: shape (rows, classes).
    """
    from sklearn.metrics import precision_recall_curve, roc_curve

    figure, (left, right) = _figure(2)
    for label, name in _shown_classes(class_names):
        scores = probabilities[:, label]
        false_positive, true_positive, _ = roc_curve(classes == label, scores)
        precision, recall, _ = precision_recall_curve(classes == label, scores)
        left.plot(false_positive, true_positive, label=name)
        right.plot(recall, precision, label=name)
    left.plot([0, 1], [0, 1], color="0.7", linestyle=":")
    left.set(xlabel="false positive rate", ylabel="true positive rate")
    right.set(xlabel="recall", ylabel="precision", ylim=(0, 1.02))
    left.legend(fontsize=7)
    return _svg(figure)


def calibration(class_names: Sequence[str], classes: NDArray[np.intp], probabilities: Array) -> Markup:
    """The share of each class in ten groups of rows against their mean probability; arguments as for ``ranking``."""
    from sklearn.calibration import calibration_curve

    figure, (axes,) = _figure(1)
    axes.plot([0, 1], [0, 1], color="0.7", linestyle=":")
    for label, name in _shown_classes(class_names):
        share, mean = calibration_curve(classes == label, probabilities[:, label], n_bins=10, strategy="quantile")
        axes.plot(mean, share, marker="o", label=name)
    axes.set(xlabel="mean probability of a tenth of the rows", ylabel="share of the class in it")
    axes.legend(fontsize=7)
    return _svg(figure)


def lift(lifts: Sequence[float], found: Sequence[float]) -> Markup:
    """The lift of each tenth of the rows, and the share of all positives found so far."""
    figure, (left, right) = _figure(2)
    left.bar(np.arange(1, 11), lifts)
    left.axhline(1, color="0.6", linestyle=":")
    left.set(xlabel="tenth of the rows, the most probable first", ylabel="lift")
    right.plot(np.arange(11) / 10, [0, *found], marker="o")
    right.plot([0, 1], [0, 1], color="0.7", linestyle=":")
    right.set(xlabel="share of rows", ylabel="share of all positives in them")
    return _svg(figure)


def intervals(coefficients: Mapping[str, float], half_widths: Sequence[float], *, label: str) -> Markup:
    """Coefficients with their intervals, the first one at the top."""
    figure, (axes,) = _figure(1, height=0.25 * len(coefficients) + 1)
    places = np.arange(len(coefficients))[::-1]
    axes.errorbar(list(coefficients.values()), places, xerr=half_widths, fmt="o", capsize=2)
    axes.axvline(0, color="0.6", linestyle=":")
    axes.set_yticks(places, list(map(_plain, coefficients)))
    axes.set(xlabel=label)
    return _svg(figure)


def importances(lost: Mapping[str, float]) -> Markup:
    """How much AUC each column is worth, the first one at the top."""
    figure, (axes,) = _figure(1, height=0.25 * len(lost) + 1)
    places = np.arange(len(lost))[::-1]
    axes.barh(places, list(lost.values()))
    axes.set_yticks(places, list(map(_plain, lost)))
    axes.set(xlabel="AUC lost when the column is shuffled")
    return _svg(figure)


def shares(bins: Sequence[str], training: Sequence[float], now: Sequence[float]) -> Markup:
    """The shares of rows in the same bins, in training and now."""
    figure, (axes,) = _figure(1, height=2.4)
    places = np.arange(len(bins))
    axes.bar(places - 0.2, training, 0.4, label="training")
    axes.bar(places + 0.2, now, 0.4, label="now")
    axes.set_xticks(places, list(map(_plain, bins)), rotation=30, ha="right", fontsize=7)
    axes.legend(fontsize=7)
    return _svg(figure)


def _shown_classes(class_names: Sequence[str]) -> list[tuple[int, str]]:
    named = list(enumerate(map(_plain, class_names)))
    return named[1:] if len(named) == 2 else named[:_MAX_CLASSES]


def _plain(text: str) -> str:
    """A string that matplotlib reads neither as mathematics nor as a label to hide."""
    return text.replace("$", r"\$").removeprefix("_") or "(no name)"


def _figure(count: int, height: float = 3.2) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * count if count > 1 else 6, height), layout="constrained")
    return figure, list(np.ravel(figure.subplots(1, count)))


def _svg(figure: Figure) -> Markup:
    from markupsafe import Markup

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    page = buffer.getvalue()
    return Markup(page[page.index("<svg") :])  # noqa: S704 - matplotlib escapes the strings that it draws
