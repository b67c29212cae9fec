"""What the figures mean, in words: one sentence on how good a model is, and warnings where its answers should not be trusted.

Owns the words and the rules. Pure: knows no table and no page. A warning needs a difference that chance hardly explains:

- *No better than the majority*: the log loss of the held-back rows is not below that of the class shares; or it is so by less
  than two standard errors of the mean difference, row by row, and the AUC is not above a half by three.
- *Miscalibrated*: the probabilities of the held-back rows are too high or too low on average, by 0.03 or a quarter of the rarer
  class's share; or they are too extreme or too cautious (Spiegelhalter 1986), by 0.03 on average over ten groups of rows; and
  in either case by more than three standard errors. With more than two classes this is asked of the predicted class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.scoring.arrays import Array
from serve_app.training.figures import Figures

__all__ = ["Verdict", "judge"]

_CLEARLY = 2.0  # standard errors
_SURELY = 3.0
_GAP = 0.03
_PART_OF_SHARE = 0.25
_GROUPS = 10
_LEAST_PROBABILITY = 1e-15


@dataclass(frozen=True)
class Verdict:
    """``sentence`` opens the report; ``warnings`` are one line each."""

    sentence: str
    warnings: tuple[str, ...]


def judge(figures: Figures, classes: NDArray[np.intp], probabilities: Array, shares: Array) -> Verdict:
    """Judges a model by the held-back rows; arguments as for ``measure``, whose result is ``figures``."""
    is_better = figures.log_loss < figures.majority_log_loss and (
        _gains_clearly(classes, probabilities, shares) or _ranks_surely(figures)
    )
    miscalibration = _miscalibration(classes, probabilities)
    rows = f"{figures.rows:,} held-back rows"
    warnings = (
        [] if is_better else [f"The model is no better than always answering the class shares, as far as {rows} can tell."]
    )
    if miscalibration is not None:
        warnings.append(miscalibration)
    sentence = (
        f"On {rows} the model is {'better' if is_better else 'no better'} than guessing: "
        f"log loss {figures.log_loss:.4f} against {figures.majority_log_loss:.4f} for the class shares alone, "
        f"accuracy {figures.accuracy:.2%} against {figures.majority_accuracy:.2%} for the most frequent class; "
        f"its probabilities {'are off' if miscalibration else 'show no sign of being off'}."
    )
    return Verdict(sentence, tuple(warnings))


def _gains_clearly(classes: NDArray[np.intp], probabilities: Array, shares: Array) -> bool:
    own = -np.log(np.maximum(probabilities[np.arange(len(classes)), classes], _LEAST_PROBABILITY))
    gains = -np.log(np.maximum(shares[classes], _LEAST_PROBABILITY)) - own
    return bool(gains.mean() > _CLEARLY * gains.std() / np.sqrt(len(gains)))


def _ranks_surely(figures: Figures) -> bool:
    """Whether chance does not explain the AUC of two classes (Mann and Whitney 1947)."""
    if figures.positive_share is None:
        return False
    positives = figures.positive_share * figures.rows
    deviation = np.sqrt((figures.rows + 1) / (12 * positives * (figures.rows - positives)))
    return bool(figures.auc - 0.5 > _SURELY * deviation)


def _miscalibration(classes: NDArray[np.intp], probabilities: Array) -> str | None:
    """A warning, or None if the probabilities are calibrated as far as the rows can tell."""
    if probabilities.shape[1] == 2:
        said, happened, what = probabilities[:, 1], classes == 1, "positive"
    else:
        said, happened, what = probabilities.max(axis=1), classes == probabilities.argmax(axis=1), "of the predicted class"
    groups = np.array_split(np.argsort(said, kind="stable"), min(_GROUPS, len(said)))
    gaps = np.array([abs(said[group].mean() - happened[group].mean()) for group in groups])
    # 1e-3 keeps rows of which the model is certain from counting as if they could not be wrong.
    spread = np.maximum(said * (1 - said), 1e-3)
    bias = (happened - said).sum() / np.sqrt(spread.sum())
    difference = abs(said.mean() - happened.mean())
    if abs(bias) > _SURELY and difference > min(_GAP, _PART_OF_SHARE * min(happened.mean(), 1 - happened.mean())):
        return (
            f"The probabilities are too {'low' if bias > 0 else 'high'}: on average {said.mean():.2%}, "
            f"while {happened.mean():.2%} of the held-back rows are {what}. Use --method auto, or --calibrate sigmoid."
        )
    slope = ((happened - said) * (1 - 2 * said)).sum() / np.sqrt((np.square(1 - 2 * said) * spread).sum())
    if abs(slope) > _SURELY and gaps.mean() > _GAP:
        worst = groups[int(gaps.argmax())]
        return (
            f"The probabilities are too {'extreme' if slope > 0 else 'cautious'}: of {len(worst)} held-back rows with about "
            f"{said[worst].mean():.2%}, {happened[worst].mean():.2%} are {what}. --calibrate sigmoid or isotonic may help."
        )
    return None
