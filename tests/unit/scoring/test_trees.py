from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

from serve_app.scoring.scorers import compile_scorer, settle
from serve_app.scoring.sklearn_scorers import answers_depend_on_the_batch
from serve_app.scoring.trees import BoostedTreesScorer, compile_trees, softmax


def rows(count: int, classes: int, *, missing: bool) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(classes)
    matrix = random.normal(size=(count, 6))
    labels = np.clip((matrix[:, 0] + matrix[:, 1] ** 2 + random.normal(0, 0.3, count)).astype(int), 0, classes - 1)
    if missing:
        matrix[random.random(matrix.shape) < 0.1] = np.nan
    return matrix, labels


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize(
    "estimator",
    [
        HistGradientBoostingClassifier(max_iter=30),
        RandomForestClassifier(20, random_state=0),
        ExtraTreesClassifier(20, random_state=0),
        DecisionTreeClassifier(random_state=0),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_compiled_trees_answer_to_the_last_bit_what_scikit_learn_does(estimator: object, classes: int, missing: bool) -> None:
    matrix, labels = rows(600, classes, missing=missing)
    model = type(estimator)(**estimator.get_params()).fit(matrix, labels)  # type: ignore[attr-defined]
    compiled = compile_trees(model)
    assert compiled is not None
    assert np.array_equal(compiled.score(matrix), model.predict_proba(matrix))


def test_large_batches_of_boosted_trees_go_to_scikit_learn_and_answer_the_same() -> None:
    matrix, labels = rows(600, 3, missing=True)
    model = HistGradientBoostingClassifier(max_iter=20).fit(matrix, labels)
    scorer = settle(compile_scorer(model), matrix)
    assert isinstance(scorer, BoostedTreesScorer)
    together = scorer.score(matrix)
    assert np.array_equal(together[7:8], scorer.score(matrix[7:8]))
    assert np.array_equal(together, scorer.compiled.score(matrix))


def test_boosted_trees_whose_large_batches_differ_are_walked_by_us(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, labels = rows(200, 2, missing=False)
    scorer = compile_scorer(HistGradientBoostingClassifier(max_iter=5).fit(matrix, labels))
    assert isinstance(scorer, BoostedTreesScorer)
    exact = scorer._predict
    monkeypatch.setattr(scorer, "_predict", lambda some: np.nextafter(exact(some), 1))
    assert settle(scorer, matrix) is scorer.compiled


def test_many_rows_are_walked_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, labels = rows(200, 2, missing=False)
    compiled = compile_trees(RandomForestClassifier(10, random_state=0).fit(matrix, labels))
    assert compiled is not None
    together = compiled.score(matrix)
    monkeypatch.setattr("serve_app.scoring.trees._MAX_STEPS", 70)
    assert np.array_equal(compiled.score(matrix), together)


def test_numbers_beyond_single_precision_have_an_answer() -> None:
    matrix, labels = rows(200, 2, missing=False)
    compiled = compile_trees(RandomForestClassifier(10, random_state=0).fit(matrix, labels))
    assert compiled is not None
    assert compiled.score(np.full((1, 6), 1e300)).sum() == pytest.approx(1)


def test_trees_with_categories_of_their_own_are_not_compiled() -> None:
    matrix, labels = rows(200, 2, missing=False)
    matrix[:, 0] = np.round(np.abs(matrix[:, 0]))
    assert compile_trees(HistGradientBoostingClassifier(max_iter=5, categorical_features=[0]).fit(matrix, labels)) is None


def test_a_row_of_a_softmax_adds_up_to_one_whatever_stands_beside_it() -> None:
    scores = np.random.default_rng(0).normal(0, 50, (500, 7))
    assert not answers_depend_on_the_batch(softmax, scores)
    assert softmax(scores).sum(axis=1) == pytest.approx(np.ones(500))
