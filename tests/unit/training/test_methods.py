from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from support.own_tables import bundled_table, mixed_table, rows_of, write_csv
from support.scoring import score

from serve_app.components.loading import load_components
from serve_app.components.saving import save_components
from serve_app.config import PROJECT_ROOT
from serve_app.errors import TableError
from serve_app.training.folds import split_rows
from serve_app.training.methods import Method
from serve_app.training.threshold import ThresholdRule
from serve_app.training.train import train

METHODS: tuple[Method, ...] = ("two-stage", "logit", "trees")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("table", "target"), [("breast_cancer", "class"), ("wine", "class"), ("mixed", "bought")])
def test_what_is_trained_loads_and_serves_rows_alone_as_together(
    tmp_path: Path, table: str, target: str, method: Method
) -> None:
    content = mixed_table() if table == "mixed" else bundled_table(table)
    draft, report = train(write_csv(tmp_path / "table.csv", content), target=target, method=method)
    components = save_components(tmp_path / "components", draft)
    rows: list[dict[str, Any]] = [{**row} for row in rows_of(content)[:130]]
    together = score(components, rows)
    assert together.shape == (130, len(components.manifest.classes))
    assert together.sum(axis=1) == pytest.approx(np.ones(130))
    assert np.array_equal(np.concatenate([score(components, [row]) for row in rows[:30]]), together[:30])
    assert report.held_back.auc > (0.7 if table == "mixed" else 0.95)
    assert json.loads(json.dumps(report.as_json())) == report.as_json()


def of_scikit_learn(name: str, method: Method, fitted: np.ndarray, others: np.ndarray) -> float:
    """The AUC that the plain estimator reaches on the rows held back."""
    bunch: Any = {"breast_cancer": load_breast_cancer, "wine": load_wine, "digits": load_digits}[name]()
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    if method == "trees":
        model = HistGradientBoostingClassifier(random_state=26)
    probabilities = model.fit(bunch.data[fitted], bunch.target[fitted]).predict_proba(bunch.data[others])
    if probabilities.shape[1] == 2:
        return float(roc_auc_score(bunch.target[others], probabilities[:, 1]))
    return float(roc_auc_score(bunch.target[others], probabilities, multi_class="ovr"))


@pytest.mark.parametrize("method", ["logit", "trees"])
@pytest.mark.parametrize("name", ["breast_cancer", "wine", "digits"])
def test_the_figures_are_those_of_plain_scikit_learn(tmp_path: Path, name: str, method: Method) -> None:
    table = bundled_table(name)
    _, report = train(write_csv(tmp_path / "table.csv", table), target="class", method=method)
    _, codes = np.unique(table["class"], return_inverse=True)
    fitted, held_back = split_rows(codes, 26)
    assert report.held_back.auc == pytest.approx(of_scikit_learn(name, method, fitted, held_back), abs=2e-3)


def test_the_documented_figures_are_those_of_the_script() -> None:
    script = runpy.run_path(str(PROJECT_ROOT / "scripts" / "make_tables.py"))
    shown = (PROJECT_ROOT / "docs" / "own-data.md").read_text(encoding="utf-8")
    assert script["HEADER"] in shown
    (line,) = (line for line in shown.splitlines() if line.startswith("| breast cancer |"))
    *said, two_stage, logit, plain_logit, trees, plain_trees = line.strip("| ").split(" | ")
    *names, found = script["line"]("breast_cancer").strip("| ").split(" | ", 2)
    assert said == names
    figures = [float(figure) for figure in found.split(" | ")]
    assert figures == pytest.approx([float(figure) for figure in (two_stage, logit, plain_logit, trees, plain_trees)], abs=1e-3)


def test_a_table_of_categories_alone_can_be_trained_on(tmp_path: Path) -> None:
    table = {name: cells for name, cells in mixed_table().items() if name in {"place", "bought"}}
    table["mood"] = np.random.default_rng(1).choice(["good", "bad"], len(table["place"])).tolist()
    for method in METHODS:
        draft, _ = train(write_csv(tmp_path / "table.csv", table), target="bought", method=method)
        save_components(tmp_path / method, draft)
        assert {path.name for path in (tmp_path / method).iterdir()} == {"manifest.json", "model.pkl"}
        assert load_components(tmp_path / method).manifest.schema.numeric == ()


def test_trees_keep_missing_numbers_missing(tmp_path: Path) -> None:
    table = mixed_table(2000)
    missing = np.random.default_rng(2).random(2000) < 0.3
    table["bought"] = np.where(missing, "yes", "no").tolist()
    table["number"] = ["" if gone else cell or "0.5" for gone, cell in zip(missing, table["number"], strict=True)]
    draft, report = train(write_csv(tmp_path / "table.csv", table), target="bought", method="trees")
    assert report.held_back.auc > 0.99
    assert "number" in report.leaks
    components = save_components(tmp_path / "components", draft)
    row = {**rows_of(table)[0], "number": None}
    assert score(components, [row])[0, 1] > 0.9


def test_cross_validation_tells_the_spread_and_spares_the_rows_held_back(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "table.csv", mixed_table())
    _, report = train(table, target="bought", method="logit", folds=4)
    found = report.cross_validation
    assert found is not None
    assert found.folds == 4
    assert found.auc.mean == pytest.approx(report.held_back.auc, abs=0.1)
    assert 0 < found.auc.deviation < 0.1
    assert report.as_json()["cross_validation"]["auc"] == {"mean": found.auc.mean, "deviation": found.auc.deviation}
    # Who they are and what they are like is mixed up among them: that changes what is measured on them, and nothing else.
    # Their classes stay, and so does the split.
    content = mixed_table()
    held_back = report.evidence.held_back
    for name in content.keys() - {"bought"}:
        cells = [content[name][row] for row in np.roll(held_back, 1)]
        for row, cell in zip(held_back, cells, strict=True):
            content[name][row] = cell
    _, other = train(write_csv(tmp_path / "mixed_up.csv", content), target="bought", method="logit", folds=4)
    assert np.array_equal(other.evidence.held_back, held_back)
    assert other.cross_validation == found
    assert other.coefficients == report.coefficients
    assert other.train.auc == report.train.auc
    assert other.held_back.auc < report.held_back.auc - 0.1


def test_a_threshold_by_rule_stands_in_the_manifest(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "table.csv", mixed_table())
    draft, report = train(table, target="bought", threshold=ThresholdRule("top_share", top_share=0.1))
    assert draft.manifest.training["threshold"] == {"rule": "top_share", "top_share": 0.1}
    probabilities = report.evidence.score(report.evidence.values)[:, 1]
    assert (probabilities >= draft.manifest.threshold).mean() == pytest.approx(0.1, abs=0.04)
    cheap, _ = train(table, target="bought", threshold=ThresholdRule("cost", false_positive=1, false_negative=9))
    dear, _ = train(table, target="bought", threshold=ThresholdRule("cost", false_positive=9, false_negative=1))
    assert cheap.manifest.threshold < 0.4 < dear.manifest.threshold


def test_a_target_of_too_many_values_is_refused(tmp_path: Path) -> None:
    content = mixed_table() | {"bought": [str(row % 150) for row in range(600)]}
    with pytest.raises(TableError, match="has 150 different values; it must have 2 to 100"):
        train(write_csv(tmp_path / "table.csv", content), target="bought")


@pytest.mark.parametrize("method", ["logit", "trees"])
@pytest.mark.parametrize("missing", ["", "NA", "n/a"])
def test_a_missing_category_counts_as_a_level_of_its_own(tmp_path: Path, method: Method, missing: str) -> None:
    random = np.random.default_rng(7)
    table = {name: cells for name, cells in mixed_table(2000).items() if name in {"number", "place", "bought"}}
    is_missing = random.random(2000) < 0.3
    table["place"] = [missing if gone else cell or "east" for gone, cell in zip(is_missing, table["place"], strict=True)]
    table["bought"] = np.where(random.random(2000) < np.where(is_missing, 0.9, 0.2), "yes", "no").tolist()
    draft, report = train(write_csv(tmp_path / "table.csv", table), target="bought", method=method)
    named = table | {"place": [cell if cell != missing else "missing" for cell in table["place"]]}
    _, spelled = train(write_csv(tmp_path / "named.csv", named), target="bought", method=method)
    assert report.held_back.auc > 0.7
    assert report.held_back.auc == pytest.approx(spelled.held_back.auc, abs=0.01)
    components = save_components(tmp_path / "components", draft)
    row = {**rows_of(table)[0], "place": None}
    assert score(components, [row])[0, 1] > score(components, [{**row, "place": "east"}])[0, 1] + 0.3


def test_a_missing_number_is_told_to_a_logit(tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    table = mixed_table(2000)
    is_missing = random.random(2000) < 0.3
    table["number"] = ["" if gone else cell for gone, cell in zip(is_missing, table["number"], strict=True)]
    table["bought"] = np.where(random.random(2000) < np.where(is_missing, 0.9, 0.2), "yes", "no").tolist()
    _, report = train(write_csv(tmp_path / "table.csv", table), target="bought", method="logit")
    assert report.coefficients["number (missing)"] > 1
    assert report.held_back.auc > 0.7
