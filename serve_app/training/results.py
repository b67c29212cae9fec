"""What training found: one typed report, and its JSON in the manifest.

Owns the shape of both. Measures and draws nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from serve_app.scoring.arrays import Array
from serve_app.scoring.schema import Schema
from serve_app.training.figures import Figures
from serve_app.training.folds import CrossValidation
from serve_app.training.methods import Calibration, Method
from serve_app.training.threshold import ThresholdRule
from serve_app.training.verdict import Verdict

__all__ = ["Evidence", "TrainingReport"]


@dataclass(frozen=True)
class Evidence:
    """The rows and probabilities that the figures were computed from, so that they can be drawn.

    ``values`` has shape (rows, columns of the schema); ``classes`` holds the position of each row's class; ``fitted`` and
    ``held_back`` are row numbers; ``probabilities`` belong to the held-back rows. ``score`` returns probabilities of values.
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
    """How well the model does on the rows that it was fitted to (``train``), and on those that were held back.

    ``candidates`` are the methods that ``auto`` compared, in the order of their log loss; empty if the user chose the method.

    ``coefficients`` and ``standard_errors`` are by feature, in the order of the model; an error is infinite where the rows do
    not determine the coefficient. Only a logit of two classes has coefficients, and only one without a penalty has errors.
    ``null_shares`` are those of the columns that the model uses, among the fitted rows. ``left_out`` gives the reason for each
    column that is not used; ``leaks`` gives the AUC that a suspicious column reaches on its own. ``cross_validation`` is None
    if there were no folds.
    """

    method: Method
    calibration: Calibration | None
    verdict: Verdict
    candidates: Mapping[Method, CrossValidation]
    rows_without_target: int
    train: Figures
    held_back: Figures
    class_shares: Mapping[str, float]
    threshold_rule: ThresholdRule
    cross_validation: CrossValidation | None
    coefficients: Mapping[str, float]
    standard_errors: Mapping[str, float]
    null_shares: Mapping[str, float]
    left_out: Mapping[str, str]
    leaks: Mapping[str, float]
    evidence: Evidence = field(compare=False, repr=False)

    @property
    def rows(self) -> int:
        """All rows of the table that have a class."""
        return self.train.rows + self.held_back.rows

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values, as the manifest holds it: each figure as ``{"train": ..., "validation": ...}``."""
        train, validation = msgspec.structs.asdict(self.train), msgspec.structs.asdict(self.held_back)
        figures = {name: {"train": value, "validation": validation[name]} for name, value in train.items() if value is not None}
        errors = {name: error if math.isfinite(error) else None for name, error in self.standard_errors.items()}
        said: dict[str, Any] = {
            "method": self.method,
            **figures,
            "class_shares": dict(self.class_shares),
            "threshold": self.threshold_rule.as_json(),
            "coefficients": dict(self.coefficients),
            "standard_errors": errors,
            "null_shares": dict(self.null_shares),
            "left_out": dict(self.left_out),
            "leaks": dict(self.leaks),
            "warnings": list(self.verdict.warnings),
        }
        if self.calibration is not None:
            said["calibration"] = self.calibration
        if self.candidates:
            said["candidates"] = msgspec.to_builtins(self.candidates)
        if self.cross_validation is not None:
            said["cross_validation"] = msgspec.to_builtins(self.cross_validation)
        return said
