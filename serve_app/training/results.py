"""What training found: figures on the training rows and the held-back rows, folds, and what a report is drawn from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.scoring.arrays import Array
from serve_app.scoring.schema import Schema
from serve_app.training.evaluation import ThresholdRule
from serve_app.training.methods import Method

__all__ = ["FIGURES", "CrossValidation", "Evidence", "TrainingReport"]

FIGURES = ("auc", "log_loss", "accuracy")


@dataclass(frozen=True)
class CrossValidation:
    """Figures of models that were each fitted without one fold of the training rows, measured on that fold."""

    folds: int
    means: Mapping[str, float]
    deviations: Mapping[str, float]


@dataclass(frozen=True)
class Evidence:
    """What the figures were made of, for whoever draws them.

    ``values`` has shape (rows, columns of the schema), ``classes`` the position of each row's class; ``fitted`` and
    ``held_back`` number rows, ``probabilities`` belong to those held back. ``score`` gives probabilities of values.
    """

    schema: Schema
    class_names: Sequence[str]
    values: Array
    classes: NDArray[np.intp]
    fitted: NDArray[np.intp]
    held_back: NDArray[np.intp]
    probabilities: Array
    score: Callable[[Array], Array]


@dataclass(frozen=True)
class TrainingReport:
    """How well the model does on the rows that it was fitted on, and on those that were held back.

    ``coefficients`` and ``standard_errors`` stand by feature, in the order of the model; the errors are infinite where the rows
    do not determine the coefficients. Only a logit of two classes has coefficients, only one without a penalty has errors.
    ``null_shares`` are those of the columns that the model uses, among the rows that it was fitted on. ``left_out`` says of the
    columns of no use why, ``leaks`` of those that know too much the AUC that they alone give. ``positive_share`` is None of
    three or more classes, ``cross_validation`` where none was asked for.
    """

    method: Method
    train_rows: int
    validation_rows: int
    class_shares: Mapping[str, float]
    train_positive_share: float | None
    validation_positive_share: float | None
    train_auc: float
    validation_auc: float
    train_log_loss: float
    validation_log_loss: float
    train_accuracy: float
    validation_accuracy: float
    threshold_rule: ThresholdRule
    cross_validation: CrossValidation | None
    coefficients: dict[str, float]
    standard_errors: dict[str, float]
    null_shares: dict[str, float]
    left_out: Mapping[str, str]
    leaks: Mapping[str, float]
    evidence: Evidence = field(compare=False, repr=False)

    @property
    def rows(self) -> int:
        """All rows of the table."""
        return self.train_rows + self.validation_rows

    def as_json(self) -> dict[str, Any]:
        """The same in values of JSON, as the manifest holds it."""
        figures: dict[str, Any] = {
            figure: {part: getattr(self, f"{part}_{figure}") for part in ("train", "validation")}
            for figure in ("rows", "positive_share", *FIGURES)
        }
        if self.train_positive_share is None:
            del figures["positive_share"]
        errors = {name: error if math.isfinite(error) else None for name, error in self.standard_errors.items()}
        said = {
            "method": self.method,
            **figures,
            "class_shares": dict(self.class_shares),
            "threshold": self.threshold_rule.as_json(),
            "coefficients": self.coefficients,
            "standard_errors": errors,
            "null_shares": self.null_shares,
            "left_out": dict(self.left_out),
            "leaks": dict(self.leaks),
        }
        if self.cross_validation is not None:
            folds = self.cross_validation
            said["cross_validation"] = {
                "folds": folds.folds,
                **{name: {"mean": folds.means[name], "deviation": folds.deviations[name]} for name in FIGURES},
            }
        return said
