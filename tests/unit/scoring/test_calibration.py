from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import make_classification
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from serve_app.errors import ComponentsError
from serve_app.scoring.calibration import CalibratedScorer, take_off_calibration
from serve_app.scoring.scorers import compile_scorer


def fitted(estimator: Any, classes: int, **options: Any) -> tuple[Any, np.ndarray]:
    matrix, labels = make_classification(600, 8, n_informative=5, n_classes=classes, random_state=0)
    return CalibratedClassifierCV(estimator, cv=3, **options).fit(matrix, labels), np.ascontiguousarray(matrix)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
@pytest.mark.parametrize(
    "estimator", [LogisticRegression(), HistGradientBoostingClassifier(max_iter=20)], ids=["logit", "trees"]
)
def test_a_calibrated_estimator_is_compiled_and_answers_as_it_does_by_itself(estimator: Any, method: str, classes: int) -> None:
    model, matrix = fitted(estimator, classes, method=method, ensemble=False)
    scorer = compile_scorer(model)
    assert isinstance(scorer, CalibratedScorer)
    assert scorer.score(matrix) == pytest.approx(model.predict_proba(matrix), abs=1e-12)
    assert scorer.score(matrix[:30]) == pytest.approx(model.predict_proba(matrix[:30]), abs=1e-12)
    assert np.array_equal(np.concatenate([scorer.score(matrix[row : row + 1]) for row in range(30)]), scorer.score(matrix)[:30])


@pytest.mark.parametrize(
    ("estimator", "options"),
    [
        (LogisticRegression(), {"ensemble": True}),
        (LogisticRegression(), {"ensemble": False, "method": "temperature"}),
        (RandomForestClassifier(5), {"ensemble": False}),
    ],
    ids=["ensemble", "temperature", "forest"],
)
def test_one_that_is_calibrated_in_another_way_stays_with_scikit_learn(estimator: Any, options: dict[str, Any]) -> None:
    model, _ = fitted(estimator, 2, **options)
    assert take_off_calibration(model) == (model, None)
    with pytest.raises(ComponentsError, match="cannot be served"):
        compile_scorer(model)
