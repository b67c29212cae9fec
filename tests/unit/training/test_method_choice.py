from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from support.own_tables import mixed_table, rows_of, write_csv
from support.scoring import score

from serve_app.components.saving import save_components
from serve_app.errors import SettingsError
from serve_app.training.methods import Calibration
from serve_app.training.train import train


def numbers_table(rows: int, *, is_linear: bool, columns: int = 8, share: float = 0.06) -> dict[str, list[str]]:
    """Numbers that tell rare positives apart, by a sum or by a distance."""
    random = np.random.default_rng(11)
    matrix = random.normal(size=(rows, columns))
    strength = matrix[:, :3].sum(axis=1) if is_linear else np.square(2 * matrix[:, :2]).sum(axis=1)
    strength = strength + random.logistic(size=rows)
    table = {f"x{index}": [f"{cell:.5f}" for cell in matrix[:, index]] for index in range(columns)}
    return table | {"y": (strength > np.quantile(strength, 1 - share)).astype(int).astype(str).tolist()}


@pytest.mark.parametrize(("is_linear", "method"), [(True, "logit"), (False, "trees")])
def test_the_default_is_the_candidate_with_the_lower_log_loss_and_fits_rare_positives(
    tmp_path: Path, is_linear: bool, method: str
) -> None:
    table = write_csv(tmp_path / "table.csv", numbers_table(3000, is_linear=is_linear))
    _, report = train(table, target="y")
    assert report.method == method
    assert next(iter(report.candidates)) == method
    figures = [report.candidates[one].log_loss.mean for one in report.candidates]
    assert figures == sorted(figures)
    assert report.as_json()["candidates"][method]["log_loss"]["mean"] == figures[0]
    assert report.cross_validation == report.candidates[report.method]
    assert report.held_back.log_loss < report.held_back.majority_log_loss
    assert report.held_back.accuracy >= report.held_back.majority_accuracy
    assert report.held_back.mean_probability == pytest.approx(report.held_back.positive_share, abs=0.02)
    assert report.verdict.warnings == ()


def test_the_exercises_method_is_warned_of_where_positives_are_rare(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "table.csv", numbers_table(3000, is_linear=True))
    _, report = train(table, target="y", method="two-stage")
    assert len(report.verdict.warnings) == 2
    assert report.as_json()["warnings"] == list(report.verdict.warnings)
    assert report.candidates == {}


def test_the_default_is_as_good_as_the_better_of_plain_scikit_learns(tmp_path: Path) -> None:
    for is_linear in (True, False):
        table = numbers_table(2000, is_linear=is_linear, share=0.3)
        _, report = train(write_csv(tmp_path / "table.csv", table), target="y")
        matrix = np.array([list(map(float, table[name])) for name in table if name != "y"]).T
        classes = np.array(table["y"])
        fitted, held_back = report.evidence.fitted, report.evidence.held_back
        plain = [
            log_loss(classes[held_back], estimator.fit(matrix[fitted], classes[fitted]).predict_proba(matrix[held_back]))
            for estimator in (
                make_pipeline(StandardScaler(), LogisticRegression()),
                HistGradientBoostingClassifier(random_state=0),
            )
        ]
        assert report.held_back.log_loss <= 1.05 * min(plain)


def test_training_takes_at_most_three_times_as_long_as_the_same_fits_in_plain_scikit_learn(tmp_path: Path) -> None:
    table = numbers_table(20_000, is_linear=False, columns=20)
    path = write_csv(tmp_path / "table.csv", table)
    train(write_csv(tmp_path / "small.csv", numbers_table(300, is_linear=True, share=0.5)), target="y")  # imports
    start = time.process_time()
    _, report = train(path, target="y", folds=5)
    own = time.process_time() - start
    matrix = np.array([list(map(float, table[name])) for name in table if name != "y"]).T[report.evidence.fitted]
    classes = np.array(table["y"])[report.evidence.fitted]
    start = time.process_time()
    folds = StratifiedKFold(5, shuffle=True, random_state=26)
    estimators: list[Any] = [
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, tol=1e-8)),
        HistGradientBoostingClassifier(random_state=26),
    ]
    for estimator in estimators:
        cross_val_predict(estimator, matrix, classes, cv=folds, method="predict_proba")
    estimators[1].fit(matrix, classes)
    assert own <= 3 * (time.process_time() - start)


@pytest.mark.parametrize("calibration", ["isotonic", "sigmoid"])
@pytest.mark.parametrize("method", ["logit", "trees"])
def test_a_calibrated_model_is_served_as_scikit_learn_answers(tmp_path: Path, method: Any, calibration: Calibration) -> None:
    table = mixed_table(1500)
    draft, report = train(write_csv(tmp_path / "table.csv", table), target="bought", method=method, calibration=calibration)
    components = save_components(tmp_path / "components", draft)
    assert report.as_json()["calibration"] == calibration
    assert report.coefficients == {}
    assert components.scorer.scored_by.endswith("calibrated")
    rows: list[dict[str, Any]] = [{**row} for row in rows_of(table)]
    together = score(components, rows)
    assert together == pytest.approx(report.evidence.score(report.evidence.values), abs=1e-12)
    assert np.array_equal(np.concatenate([score(components, [row]) for row in rows[:40]]), together[:40])


def test_calibration_helps_trees_on_few_rows(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "table.csv", mixed_table(900))
    _, plain = train(table, target="bought", method="trees")
    _, calibrated = train(table, target="bought", method="trees", calibration="sigmoid")
    assert calibrated.held_back.log_loss < plain.held_back.log_loss
    assert any("too extreme" in warning for warning in plain.verdict.warnings)
    assert calibrated.verdict.warnings == ()


def test_the_exercises_method_is_not_calibrated(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="two-stage is the exercise's recipe"):
        train(tmp_path / "table.csv", target="y", method="two-stage", calibration="sigmoid")
