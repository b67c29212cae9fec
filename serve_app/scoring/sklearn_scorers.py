"""Scoring by scikit-learn itself, for estimators that cannot be compiled.

Owns how a matrix of raw columns becomes the input that the estimator was fitted on, and the rule that a row has one answer. If
the last bit of an answer depends on the number of rows (BLAS adds in another order for other shapes), the estimator always
scores blocks of the same size; if it depends on the place in the block as well, it scores row by row. Which is needed is
measured by ``answers_depend_on_the_batch``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from serve_app.scoring.arrays import Array
from serve_app.scoring.schema import Column

__all__ = ["BlockScorer", "EstimatorScorer", "answers_depend_on_the_batch"]

_PROBE_ROWS = 300
_SINGLE_ROWS = 40
_CUTS = (1, 3, 10, 27, 60, 124, 255)


class EstimatorScorer:
    """Calls the estimator's own ``predict_proba``.

    Args:
        estimator: fitted on the raw columns, in a pandas.DataFrame if it knows their names, else in an array.
        columns: the raw columns, in the order of the matrix.
    """

    scored_by = "scikit-learn"

    def __init__(self, estimator: Any, columns: Sequence[Column]) -> None:
        self._predict = estimator.predict_proba
        self._columns = tuple(columns)
        self._takes_names = getattr(estimator, "feature_names_in_", None) is not None
        self._levels = {
            column.name: np.array([*column.levels, np.nan], dtype=object) for column in columns if column.is_categorical
        }

    def score(self, matrix: Array) -> Array:
        """Probabilities of shape (rows, classes) for a matrix of shape (rows, raw columns), categories as codes."""
        with warnings.catch_warnings():
            # The estimator decides what to make of categories that it was not fitted on.
            warnings.filterwarnings("ignore", "Found unknown categories", UserWarning)
            return np.asarray(self._predict(self.frame(matrix) if self._takes_names else matrix), dtype=np.float64)

    def frame(self, matrix: Array) -> Any:
        """The matrix as a pandas.DataFrame with the names of the columns, and with categories as strings; NaN if missing."""
        import pandas as pd

        cells: dict[str, Any] = {}
        for index, column in enumerate(self._columns):
            values = matrix[:, index]
            if column.is_categorical:
                levels = self._levels[column.name]
                codes = np.where(np.isnan(values), len(levels) - 1, values).astype(np.intp)
                cells[column.name] = pd.Series(levels[codes], dtype=object)
            else:
                cells[column.name] = values
        return pd.DataFrame(cells)


class BlockScorer:
    """Calls another scorer with blocks of the same number of rows; the last block is filled up with copies of its first row.

    Args:
        scorer: the other scorer.
        rows: of a block; with 1, each row is scored alone.
    """

    def __init__(self, scorer: Any, rows: int) -> None:
        self._score: Callable[[Array], Array] = scorer.score
        self._rows = rows
        self.scored_by = f"{scorer.scored_by}, " + ("row by row" if rows == 1 else f"in blocks of {rows} rows")

    def score(self, matrix: Array) -> Array:
        """Probabilities of shape (rows, classes) for a matrix of shape (rows, features), which must have rows."""
        blocks = [matrix[start : start + self._rows] for start in range(0, len(matrix), self._rows)]
        missing = self._rows - len(blocks[-1])
        blocks[-1] = np.concatenate([blocks[-1], np.repeat(blocks[-1][:1], missing, axis=0)])
        return np.concatenate([self._score(block) for block in blocks])[: len(matrix)]


def answers_depend_on_the_batch(score: Callable[[Array], Array], matrix: Array) -> bool:
    """Whether the last bit of a row's answer changes with the size of the batch or the row's place in it.

    300 rows are scored together, in batches of several sizes, in reverse order, and 40 of them alone. Each of their cells is
    drawn from the cells of its column.

    Args:
        score: of a scorer.
        matrix: shape (rows, features), typical rows.
    """
    random = np.random.default_rng(0)
    rows = random.integers(0, len(matrix), (_PROBE_ROWS, matrix.shape[1]))
    probe = np.ascontiguousarray(np.take_along_axis(matrix, rows, axis=0))
    together = score(probe)
    pieces = np.concatenate([score(np.ascontiguousarray(piece)) for piece in np.split(probe, _CUTS)])
    turned = score(np.ascontiguousarray(probe[::-1]))[::-1]
    alone = np.concatenate([score(probe[row : row + 1]) for row in range(_SINGLE_ROWS)])
    return not (
        np.array_equal(together, pieces) and np.array_equal(together, turned) and np.array_equal(together[:_SINGLE_ROWS], alone)
    )
