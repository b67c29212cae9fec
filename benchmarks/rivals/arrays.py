"""Scoring without pandas and scikit-learn: the fitted objects become arrays once, at start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.rivals.artefacts import answers, load_artefacts

__all__ = ["CompiledModel"]


class CompiledModel:
    """A logistic regression on standardised numbers and one-hot categories.

    Args:
        folder: of imputer.pkl, scaler.pkl, model.pkl and manifest.json.
    """

    def __init__(self, folder: Path) -> None:
        manifest, imputer, scaler, model = load_artefacts(folder)
        self._manifest = manifest
        weights = dict(zip(model.feature_names_in_, model.coef_[0], strict=True))
        self._intercept = float(model.intercept_[0])
        kinds = {column["name"]: column["kind"] for column in manifest["schema"]["columns"]}
        self.numeric = [name for name in manifest["selected_features"] if kinds[name] != "categorical"]
        self.categorical = [name for name in manifest["selected_features"] if kinds[name] == "categorical"]
        position = {name: index for index, name in enumerate(scaler.feature_names_in_)}
        chosen = [position[name] for name in self.numeric]
        self._imputed, self._means, self._scales = (
            learned[chosen] for learned in (imputer.statistics_, scaler.mean_, scaler.scale_)
        )
        self._weights = np.array([weights[name] for name in self.numeric])
        # A level's part of the log-odds; a missing or unknown level and the baseline add nothing.
        self._level_weights = {
            name: {
                feature["level"]: weights[f"{name}_{feature['level']}"]
                for feature in manifest["features"]
                if feature["column"] == name
            }
            for name in self.categorical
        }

    def score(self, numbers: Sequence[Sequence[Any]], categories: Sequence[Sequence[Any]]) -> NDArray[np.float64]:
        """The probability of the positive class of each row.

        Args:
            numbers: the cells of each column of ``numeric``, in that order.
            categories: the cells of each column of ``categorical``, in that order.
        """
        matrix = np.array([list(map(_number, cells)) for cells in numbers]).T
        matrix = np.where(np.isnan(matrix), self._imputed, matrix)
        log_odds = ((matrix - self._means) / self._scales) @ self._weights + self._intercept
        for name, cells in zip(self.categorical, categories, strict=True):
            known = self._level_weights[name]
            log_odds += np.array([known.get(cell, 0.0) for cell in cells])
        probabilities: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-log_odds))
        return probabilities

    def answers(self, probabilities: NDArray[np.float64]) -> list[dict[str, Any]]:
        """The service's answer to each row."""
        return answers(self._manifest, probabilities.tolist())


def _number(cell: Any) -> float:
    """A number, or a string of one: ``"$5,547.78"``, ``"($5,032.58)"``, ``"36.29%"``."""
    if type(cell) is float:
        return cell
    if cell is None or cell == "":
        return np.nan
    if isinstance(cell, str):
        return float(cell.translate(_PLAIN))
    return float(cell)


_PLAIN = str.maketrans("(", "-", "$,%)")
