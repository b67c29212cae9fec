from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.neural_network import MLPClassifier

from serve_app.scoring.schema import Column
from serve_app.scoring.scorers import compile_scorer, settle
from serve_app.scoring.sklearn_scorers import BlockScorer, EstimatorScorer, answers_depend_on_the_batch

COLUMNS = (Column("n", "numeric"), Column("c", "categorical", levels=("a", "b")))


class Recorder:
    """An estimator that remembers what it is given."""

    feature_names_in_ = np.array(["n", "c"], dtype=object)

    def __init__(self) -> None:
        self.given: list[pd.DataFrame] = []

    def predict_proba(self, frame: pd.DataFrame) -> np.ndarray:
        self.given.append(frame)
        return np.full((len(frame), 2), 0.5)


def test_an_estimator_that_knows_names_gets_a_table_with_texts() -> None:
    estimator = Recorder()
    EstimatorScorer(estimator, COLUMNS).score(np.array([[1.5, 0], [np.nan, 1], [2, np.nan]]))
    (frame,) = estimator.given
    assert list(frame.columns) == ["n", "c"]
    assert frame["n"].tolist()[::2] == [1.5, 2.0]
    assert np.isnan(frame["n"][1])
    assert frame["c"].tolist()[:2] == ["a", "b"]
    assert frame["c"].isna().tolist() == [False, False, True]


def test_answers_that_depend_on_the_batch_are_found_and_then_made_row_by_row() -> None:
    random = np.random.default_rng(0)
    matrix = random.normal(size=(400, 37))
    model = MLPClassifier((64,), max_iter=5, random_state=0)
    with pytest.warns(UserWarning, match="Maximum iterations"):
        model.fit(matrix, matrix.sum(axis=1) > 0)
    columns = [Column(f"x{index}", "numeric") for index in range(37)]
    scorer = compile_scorer(model, columns)
    assert scorer.scored_by == "scikit-learn"
    assert answers_depend_on_the_batch(scorer.score, matrix)  # BLAS sums one row in another order than many
    settled = settle(scorer, matrix)
    assert isinstance(settled, BlockScorer)
    assert settled.scored_by in {"scikit-learn, in blocks of 32 rows", "scikit-learn, row by row"}  # as the processor has it
    assert not answers_depend_on_the_batch(settled.score, matrix)
    assert settled.score(matrix) == pytest.approx(model.predict_proba(matrix), abs=1e-12)


@pytest.mark.parametrize("block_rows", [1, 4])
def test_blocks_have_always_as_many_rows(block_rows: int) -> None:
    class Shapes:
        scored_by = "shapes"

        def __init__(self) -> None:
            self.seen: set[int] = set()

        def score(self, matrix: np.ndarray) -> np.ndarray:
            self.seen.add(len(matrix))
            return matrix * 2

    shapes = Shapes()
    scorer = BlockScorer(shapes, block_rows)
    for rows in (1, 3, 4, 5, 8, 9):
        matrix = np.random.default_rng(rows).normal(size=(rows, 2))
        assert np.array_equal(scorer.score(matrix), matrix * 2)
    assert shapes.seen == {block_rows}


def test_an_estimator_that_minds_its_place_in_a_block_is_asked_row_by_row() -> None:
    class Placed:
        scored_by = "placed"

        def score(self, matrix: np.ndarray) -> np.ndarray:
            return matrix + np.arange(len(matrix))[:, np.newaxis]

    settled = settle(Placed(), np.random.default_rng(0).normal(size=(20, 2)))
    assert settled.scored_by == "placed, row by row"


def test_answers_that_depend_on_the_place_in_the_batch_are_found() -> None:
    def score(matrix: np.ndarray) -> np.ndarray:
        scored = np.repeat(matrix[:, :1], 2, axis=1)
        scored[100:] += 1e-16
        return scored

    assert answers_depend_on_the_batch(score, np.zeros((10, 2)))
    assert not answers_depend_on_the_batch(lambda matrix: matrix * 2, np.random.default_rng(0).normal(size=(10, 2)))
