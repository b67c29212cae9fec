"""Why a row got its answer: what each raw column contributes to its score.

Owns the arithmetic and the words. Of a linear model the contribution of a column is the sum over its features of coefficient
times feature; of trees it is what TreeSHAP (Lundberg et al. 2020, by the ``shap`` package) gives. With the base they add up to
the score: of two classes the log-odds of the positive one, of more the predicted class's part of the softmax; of a forest,
whose trees average probabilities, the probability. ``shap`` is imported when the first row is explained, not before.

Nothing can be said of an estimator that is neither linear nor trees.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from serve_app.components import Components
from serve_app.errors import NotExplainableError
from serve_app.schema import Column

__all__ = ["Explainer", "Explanation", "Reason"]

Array = NDArray[np.float64]
Scale = Literal["log_odds", "class_score", "probability"]

_MOST_REASONS = 5


class _LinearParts(NamedTuple):
    scale: Scale
    coefficients: Array  # (classes, features)
    intercepts: Array  # (classes,)


class _TreeParts(NamedTuple):
    scale: Scale
    explainer: Any  # shap.TreeExplainer


class Reason(msgspec.Struct, frozen=True):
    """What one column does."""

    column: str
    text: str
    contribution: float


class Explanation(msgspec.Struct, frozen=True):
    """Of one row. ``base`` and all contributions add up to ``score``, which is the ``scale`` of ``of_class``."""

    of_class: Any
    scale: Scale
    base: float
    score: float
    contributions: dict[str, float]
    reasons: list[Reason]


class Explainer:
    """Explains the answers of one model.

    Args:
        components: the model's. Nothing is done with them before the first row is to be explained.
    """

    def __init__(self, components: Components) -> None:
        self._components = components
        self._columns = components.encoder.columns
        position = {column.name: index for index, column in enumerate(self._columns)}
        self._column_of = np.array([position[feature.column] for feature in components.encoder.features], dtype=np.intp)
        self._classes = components.manifest.classes

    @cached_property
    def _parts(self) -> _LinearParts | _TreeParts:
        return self._linear_parts() or self._tree_parts()

    def explain(self, values: Array, predicted: Sequence[int]) -> list[Explanation]:
        """An explanation of each row.

        Args:
            values: shape (rows, columns).
            predicted: the position of each row's predicted class; of two classes it is the positive one that is explained.

        Raises:
            NotExplainableError: the model is neither linear nor trees, or shap is not installed.
        """
        if not len(values):
            return []
        matrix = self._components.encoder.encode(values)
        classes = np.ones(len(values), dtype=np.intp) if len(self._classes) == 2 else np.asarray(predicted, dtype=np.intp)
        contributions, bases = self._contributions(matrix, classes)
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
                    f"{_said(self._columns[index], values[index])} {'raises' if contributions[index] > 0 else 'lowers'}",
                    float(contributions[index]),
                )
                for index in strongest.tolist()
                if contributions[index] != 0
            ],
        )

    def _contributions(self, matrix: Array, classes: NDArray[np.intp]) -> tuple[Array, Array]:
        """Of each feature, shape (rows, features), and the base, shape (rows,), for the given class of each row."""
        if isinstance(self._parts, _LinearParts):
            return matrix * self._parts.coefficients[classes], self._parts.intercepts[classes]
        found = np.asarray(self._parts.explainer.shap_values(matrix, check_additivity=False))
        bases = np.ravel(self._parts.explainer.expected_value)
        if found.ndim == 3:  # (rows, features, classes)
            return found[np.arange(len(matrix)), :, classes], bases[classes]
        return found, np.full(len(matrix), bases[-1])

    def _linear_parts(self) -> _LinearParts | None:
        from sklearn.linear_model import LogisticRegression

        model = self._components.model
        if not isinstance(model, LogisticRegression):
            return None
        intercepts = np.broadcast_to(np.ravel(model.intercept_), len(model.coef_))
        if len(self._classes) > 2:
            return _LinearParts("class_score", model.coef_, intercepts)
        return _LinearParts("log_odds", np.vstack([-model.coef_, model.coef_]), np.concatenate([-intercepts, intercepts]))

    def _tree_parts(self) -> _TreeParts:
        from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier, RandomForestClassifier
        from sklearn.tree import DecisionTreeClassifier

        model = self._components.model
        forests = (ExtraTreesClassifier, RandomForestClassifier, DecisionTreeClassifier)
        if not isinstance(model, (HistGradientBoostingClassifier, *forests)):
            raise NotExplainableError(f"a {type(model).__name__} is neither linear nor trees")
        try:
            import shap
        except ModuleNotFoundError as error:
            raise NotExplainableError("trees are explained by the package shap, which make install-data installs") from error
        scores: Scale = "log_odds" if len(self._classes) == 2 else "class_score"
        return _TreeParts("probability" if isinstance(model, forests) else scores, shap.TreeExplainer(model))


def _said(column: Column, value: float) -> str:
    if np.isnan(value):
        return f"{column.name} missing"
    if column.is_categorical:
        return f"{column.name} = {column.levels[int(value)]}"
    if column.kind == "boolean":
        return f"{column.name} = {'true' if value else 'false'}"
    if column.kind == "date":
        return f"{column.name} = {np.datetime64('1970-01-01') + np.timedelta64(int(np.floor(value)), 'D')}"
    return f"{column.name} = {value:g}{'%' if column.kind == 'percent' else ''}"
