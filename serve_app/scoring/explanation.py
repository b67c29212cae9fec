"""Why a row got its answer: what each raw column contributes to its score.

Owns the arithmetic and the words. In a linear model a column contributes, summed over its features, the coefficient times how
far the feature is from its mean over the training rows. In trees it contributes what TreeSHAP (Lundberg et al. 2020, by the
``shap`` package) gives. With the base they add up to the score: for two classes the log-odds of the positive one, for more the
predicted class's part of the softmax; for a forest, whose trees average probabilities, the probability. The score of a
calibrated model is the one before calibration. ``shap`` is imported when the first row is explained, not before.

Steps before the estimator that fill in or scale each feature by itself leave it the feature that it was. Nothing can be said of
an estimator that is neither linear nor trees, and nothing is said where the sum is not what was answered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from serve_app.errors import NotExplainableError
from serve_app.scoring.arrays import Array
from serve_app.scoring.calibration import Calibration, take_off_calibration
from serve_app.scoring.features import FeatureEncoder
from serve_app.scoring.schema import Column
from serve_app.scoring.scorers import Scorer, Step, standardise, take_apart
from serve_app.scoring.trees import softmax

__all__ = ["Explainer", "Explanation", "Reason"]

Scale = Literal["log_odds", "class_score", "probability"]

_MOST_REASONS = 5
_SLICE_ROWS = 2  # shap holds the interpreter's lock: some milliseconds for a forest
_TOLERANCE = 1e-6  # of a probability; a correct explanation is accurate to about 1e-12


class _Parts(NamedTuple):
    """How a model makes its scores: one output if two classes share one score, else one for each class."""

    scale: Scale
    contributions: Callable[[Array], Array]  # (rows, features) to (rows, features, outputs)
    bases: Array  # (outputs,)
    steps: Sequence[Step] = ()
    calibration: Calibration | None = None

    def probabilities(self, sums: Array) -> Array:
        """What scores, of shape (rows, outputs), mean."""
        if self.calibration is not None:
            calibrated = self.calibration.probabilities(sums)
            return calibrated if len(self.bases) > 1 else calibrated[:, 1:]
        if self.scale == "probability":
            return sums
        return softmax(sums) if self.scale == "class_score" else np.asarray(expit(sums))


class Reason(msgspec.Struct, frozen=True):
    """One column and its effect on the score, in words and as a number."""

    column: str
    text: str
    contribution: float


class Explanation(msgspec.Struct, frozen=True):
    """The explanation of one row.

    ``base`` and ``contributions`` add up to ``score``: the log-odds, the input to the softmax or the probability, as ``scale``
    says, of the class ``of_class``.
    """

    of_class: Any
    scale: Scale
    base: float
    score: float
    contributions: dict[str, float]
    reasons: list[Reason]


class Explainer:
    """Explains the answers of one model.

    Args:
        model: the fitted estimator. Nothing is done with it before the first row is to be explained.
        encoder: makes the model's features.
        scorer: gives the answers that are explained.
        classes: of the answers, in the order of the probabilities.
        means: of each feature over the training rows, shape (features,). A linear model's contributions are measured from them,
            so that they do not depend on which level of a category is the baseline. None: measured from 0.
    """

    def __init__(
        self, model: Any, encoder: FeatureEncoder, scorer: Scorer, classes: Sequence[Any], means: Array | None = None
    ) -> None:
        self._model = model
        self._means = means
        self._encoder = encoder
        self._scorer = scorer
        self._classes = classes
        self._columns = encoder.columns
        position = {column.name: index for index, column in enumerate(self._columns)}
        self._column_of = np.array([position[feature.column] for feature in encoder.features], dtype=np.intp)

    @cached_property
    def _parts(self) -> _Parts:
        model, calibration = take_off_calibration(self._model)
        apart = take_apart(model)
        if apart is None:
            raise NotExplainableError("a step before the estimator changes which features there are")
        steps, estimator = apart
        means = np.zeros(len(self._column_of)) if self._means is None else standardise(self._means[np.newaxis], steps)[0]
        parts = _linear_parts(estimator, means) or _tree_parts(estimator)
        return parts._replace(steps=steps, calibration=calibration)

    def explain(self, values: Array, predicted: Sequence[int]) -> list[Explanation]:
        """An explanation of each row.

        Args:
            values: shape (rows, columns).
            predicted: the position of each row's predicted class; of two classes, the positive one is explained in any case.

        Raises:
            NotExplainableError: the model is neither linear nor made of trees, shap is not installed, or its result is wrong.
        """
        if not len(values):
            return []
        matrix = self._encoder.encode(values)
        classes = np.ones(len(values), dtype=np.intp) if len(self._classes) == 2 else np.asarray(predicted, dtype=np.intp)
        slices = [slice(start, start + _SLICE_ROWS) for start in range(0, len(matrix), _SLICE_ROWS)]
        found = [self._contributions(matrix[piece], classes[piece]) for piece in slices]
        contributions, bases = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        by_column = np.zeros((len(values), len(self._columns)))
        for feature, column in enumerate(self._column_of):
            by_column[:, column] += contributions[:, feature]
        return [
            self._explanation(values[row], self._classes[classes[row]], float(bases[row]), by_column[row])
            for row in range(len(values))
        ]

    def _explanation(self, values: Array, label: Any, base: float, contributions: Array) -> Explanation:
        strongest = np.argsort(-np.abs(contributions), kind="stable")[:_MOST_REASONS]
        return Explanation(
            of_class=label,
            scale=self._parts.scale,
            base=base,
            score=base + float(contributions.sum()),
            contributions={column.name: float(value) for column, value in zip(self._columns, contributions, strict=True)},
            reasons=[
                Reason(
                    self._columns[index].name,
                    f"{_words(self._columns[index], values[index])} {'raises' if contributions[index] > 0 else 'lowers'}",
                    float(contributions[index]),
                )
                for index in strongest.tolist()
                if contributions[index] != 0
            ],
        )

    def _contributions(self, matrix: Array, classes: NDArray[np.intp]) -> tuple[Array, Array]:
        """Contributions of shape (rows, features) and bases of shape (rows,) to the score of the given class of each row."""
        parts = self._parts
        found = parts.contributions(standardise(matrix, parts.steps))
        rows = np.arange(len(matrix))
        outputs = classes if len(parts.bases) > 1 else np.zeros_like(classes)
        explained = parts.probabilities(found.sum(axis=1) + parts.bases)[rows, outputs]
        answered = self._scorer.score(matrix)[rows, classes]
        if not (np.abs(explained - answered) <= _TOLERANCE).all():
            raise NotExplainableError("the contributions of its columns do not add up to its answers")
        return found[rows, :, outputs], parts.bases[outputs]


def _linear_parts(model: Any, means: Array) -> _Parts | None:
    from sklearn.linear_model import LogisticRegression

    if not isinstance(model, LogisticRegression):
        return None
    coefficients = model.coef_.T  # (features, outputs)
    bases = np.ravel(model.intercept_) + means @ coefficients
    scale: Scale = "log_odds" if len(bases) == 1 else "class_score"
    return _Parts(scale, lambda matrix: (matrix - means)[:, :, np.newaxis] * coefficients, bases)


def _tree_parts(model: Any) -> _Parts:
    from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.tree import DecisionTreeClassifier

    is_boosted = isinstance(model, HistGradientBoostingClassifier)
    if not is_boosted and not isinstance(model, (ExtraTreesClassifier, RandomForestClassifier, DecisionTreeClassifier)):
        raise NotExplainableError(f"a {type(model).__name__} is neither linear nor made of trees")
    if is_boosted and model.is_categorical_ is not None:
        raise NotExplainableError("its trees split categories, which the package shap does not support")
    try:
        import shap
    except ModuleNotFoundError as error:
        raise NotExplainableError("the package shap is not installed; make install-data installs it") from error
    explainer = shap.TreeExplainer(model)

    def contributions(matrix: Array) -> Array:
        found = np.asarray(explainer.shap_values(matrix, check_additivity=False))
        return found if found.ndim == 3 else found[:, :, np.newaxis]

    bases = np.ravel(explainer.expected_value)
    scale: Scale = "probability" if not is_boosted else "log_odds" if len(bases) == 1 else "class_score"
    return _Parts(scale, contributions, bases)


def _words(column: Column, value: float) -> str:
    if np.isnan(value):
        return f"{column.name} missing"
    if column.is_categorical:
        return f"{column.name} = {column.levels[int(value)]}"
    if column.kind == "boolean":
        return f"{column.name} = {'true' if value else 'false'}"
    if column.kind == "date":
        return f"{column.name} = {np.datetime64('1970-01-01') + np.timedelta64(int(np.floor(value)), 'D')}"
    return f"{column.name} = {value:g}{'%' if column.kind == 'percent' else ''}"
