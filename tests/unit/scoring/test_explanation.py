from __future__ import annotations

from pathlib import Path
from typing import Any

import joblib
import msgspec
import numpy as np
import pandas as pd
import pytest
import shap
from scipy.special import logit
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from support.own_tables import bundled_table, mixed_table, rows_of, write_csv

from serve_app.components.compiled import Components
from serve_app.components.saving import save_components
from serve_app.errors import NotExplainableError
from serve_app.scoring.explanation import Explainer, Explanation
from serve_app.training.import_estimator import import_estimator
from serve_app.training.methods import Calibration, Method
from serve_app.training.train import train


def explainer_of(components: Components) -> Explainer:
    return Explainer(
        components.model, components.encoder, components.scorer, components.manifest.classes, components.feature_means
    )


def explained(components: Components, rows: list[dict[str, Any]]) -> tuple[np.ndarray, list[Explanation]]:
    (chunk,) = components.parser(max_rows=len(rows)).chunks(msgspec.json.encode(rows))
    assert not chunk.problems
    probabilities = components.score(chunk.values)
    return probabilities, explainer_of(components).explain(chunk.values, probabilities.argmax(axis=1).tolist())


def check_sums(explanation: Explanation) -> None:
    assert explanation.score == pytest.approx(explanation.base + sum(explanation.contributions.values()), abs=1e-12)


@pytest.mark.parametrize("method", ["two-stage", "logit", "trees"])
def test_contributions_add_up_to_the_log_odds(tmp_path: Path, method: Method) -> None:
    table = mixed_table()
    draft, _ = train(write_csv(tmp_path / "table.csv", table), target="bought", method=method)
    components = save_components(tmp_path / "components", draft)
    probabilities, explanations = explained(components, [{**row} for row in rows_of(table)[:50]])
    for row, explanation in enumerate(explanations):
        check_sums(explanation)
        assert explanation.scale == "log_odds"
        assert explanation.of_class == "yes"
        assert set(explanation.contributions) == set(components.manifest.selected_features)
        assert explanation.score == pytest.approx(logit(probabilities[row, 1]), abs=1e-9)


@pytest.mark.parametrize("method", ["logit", "trees"])
def test_of_several_classes_the_predicted_one_is_explained(tmp_path: Path, method: Method) -> None:
    table = bundled_table("wine")
    draft, _ = train(write_csv(tmp_path / "table.csv", table), target="class", method=method)
    components = save_components(tmp_path / "components", draft)
    rows: list[dict[str, Any]] = [{**row} for row in rows_of(table)[::9]]
    probabilities, explanations = explained(components, rows)
    matrix = components.encoder.encode(next(iter(components.parser(max_rows=99).chunks(msgspec.json.encode(rows)))).values)
    scores = components.model.decision_function(pd.DataFrame(matrix, columns=components.model.feature_names_in_))
    for row, explanation in enumerate(explanations):
        check_sums(explanation)
        predicted = probabilities[row].argmax()
        assert explanation.scale == "class_score"
        assert explanation.of_class == components.manifest.classes[predicted]
        assert explanation.score == pytest.approx(scores[row, predicted], abs=1e-9)


def test_a_forest_explains_its_probability(tmp_path: Path) -> None:
    table = bundled_table("wine")
    names = [name for name in table if name != "class"]
    data = np.array([[float(cell) for cell in table[name]] for name in names]).T
    joblib.dump(RandomForestClassifier(20, random_state=0).fit(data, table["class"]), tmp_path / "forest.pkl")
    draft = import_estimator(tmp_path / "forest.pkl", write_csv(tmp_path / "wine.csv", table), target="class")
    components = save_components(tmp_path / "components", draft)
    probabilities, explanations = explained(components, [{**row} for row in rows_of(table)[::20]])
    for row, explanation in enumerate(explanations):
        assert explanation.scale == "probability"
        assert explanation.score == pytest.approx(probabilities[row].max(), abs=1e-9)


def test_reasons_are_words_the_strongest_first(tmp_path: Path) -> None:
    table = mixed_table()
    draft, _ = train(write_csv(tmp_path / "table.csv", table), target="bought", method="logit")
    components = save_components(tmp_path / "components", draft)
    row: dict[str, Any] = {
        "number": 6.5,
        "paid": "€10.00",
        "share": None,
        "member": True,
        "since": "2022-01-31",
        "place": "south",
    }
    _, ((explanation),) = explained(components, [row])
    said = [reason.text for reason in explanation.reasons]
    assert said[0] == "number = 6.5 raises"
    assert len(said) == 5
    assert {"member = true raises", "since = 2022-01-31 lowers", "place = south raises"} <= set(said)
    strengths = [abs(reason.contribution) for reason in explanation.reasons]
    assert strengths == sorted(strengths, reverse=True)


def test_a_missing_number_is_said_to_be_missing(tmp_path: Path) -> None:
    table = mixed_table()
    draft, _ = train(write_csv(tmp_path / "table.csv", table), target="bought", method="trees")
    components = save_components(tmp_path / "components", draft)
    row = dict.fromkeys(components.manifest.selected_features)
    _, (explanation,) = explained(components, [row])
    assert all(" missing " in reason.text for reason in explanation.reasons)
    assert explanation.reasons


def test_an_estimator_that_is_neither_linear_nor_trees_cannot_be_explained(tmp_path: Path) -> None:
    table = bundled_table("wine")
    data = np.array([[float(cell) for cell in cells] for name, cells in table.items() if name != "class"]).T
    joblib.dump(GaussianNB().fit(data, table["class"]), tmp_path / "bayes.pkl")
    draft = import_estimator(tmp_path / "bayes.pkl", write_csv(tmp_path / "wine.csv", table), target="class")
    components = save_components(tmp_path / "components", draft)
    with pytest.raises(NotExplainableError, match="a GaussianNB is neither linear nor made of trees"):
        explained(components, [{**rows_of(table)[0]}])


def imported(folder: Path, estimator: Any, table: dict[str, list[str]]) -> Components:
    """Components of an estimator that is fitted here to all columns of a table, as numbers."""
    data = np.array([[float(cell) for cell in cells] for name, cells in table.items() if name != "class"]).T
    joblib.dump(estimator.fit(data, table["class"]), folder / "mine.pkl")
    draft = import_estimator(folder / "mine.pkl", write_csv(folder / "mine.csv", table), target="class")
    return save_components(folder / "mine", draft)


@pytest.mark.parametrize("table", ["breast_cancer", "wine"])
@pytest.mark.parametrize("steps", [(StandardScaler(),), (SimpleImputer(), StandardScaler())], ids=["scaled", "imputed"])
@pytest.mark.parametrize(
    "estimator", [LogisticRegression(), RandomForestClassifier(9, random_state=1), HistGradientBoostingClassifier(max_iter=9)],
    ids=["linear", "forest", "boosted"],
)  # fmt: skip
def test_an_estimator_behind_a_scaler_is_explained_as_exactly(
    tmp_path: Path, estimator: Any, steps: tuple[Any, ...], table: str
) -> None:
    cells = bundled_table(table)
    components = imported(tmp_path, make_pipeline(*map(clone, steps), clone(estimator)), cells)
    rows = [{**row} for row in rows_of(cells)[::23]]
    probabilities, explanations = explained(components, rows)
    (chunk,) = components.parser(max_rows=99).chunks(msgspec.json.encode(rows))
    matrix = components.encoder.encode(chunk.values)
    for row, explanation in enumerate(explanations):
        check_sums(explanation)
        at = components.manifest.classes.index(explanation.of_class)
        if explanation.scale == "probability":
            expected = probabilities[row, at]
        else:
            scores = components.model.decision_function(matrix)
            expected = scores[row] if scores.ndim == 1 else scores[row, at]
        assert explanation.score == pytest.approx(expected, abs=1e-9)


def test_a_pipeline_that_mixes_features_cannot_be_explained(tmp_path: Path) -> None:
    table = bundled_table("wine")
    components = imported(tmp_path, make_pipeline(StandardScaler(), PCA(3), LogisticRegression()), table)
    with pytest.raises(NotExplainableError, match="changes which features"):
        explained(components, [{**rows_of(table)[0]}])


def test_trees_that_split_categories_cannot_be_explained(tmp_path: Path) -> None:
    table = bundled_table("wine")
    codes = np.random.default_rng(1).integers(0, 6, len(table["class"]))
    table["code"] = [str(float(code)) for code in codes]
    table["class"] = ["odd" if code % 2 else "even" for code in codes]
    position = [name for name in table if name != "class"].index("code")
    components = imported(tmp_path, HistGradientBoostingClassifier(max_iter=5, categorical_features=[position]), table)
    with pytest.raises(NotExplainableError, match="split categories"):
        explained(components, [{**rows_of(table)[0]}])


def test_what_does_not_add_up_to_the_answer_is_not_said(tmp_path: Path) -> None:
    table = bundled_table("wine")
    components = imported(tmp_path, make_pipeline(StandardScaler(), LogisticRegression()), table)
    *_, estimator = components.model
    estimator.intercept_ = estimator.intercept_ * 1.1  # after it was compiled: another model than the one that answers
    with pytest.raises(NotExplainableError, match="add up"):
        explained(components, [{**row} for row in rows_of(table)[::20]])


def test_trees_are_explained_in_slices_so_that_others_run_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = bundled_table("wine")
    components = imported(tmp_path, RandomForestClassifier(5, random_state=0), table)
    sizes: list[int] = []
    shap_values = shap.TreeExplainer.shap_values

    def noting(self: Any, matrix: np.ndarray, **options: Any) -> Any:  # it holds the interpreter's lock from start to end
        sizes.append(len(matrix))
        return shap_values(self, matrix, **options)

    monkeypatch.setattr(shap.TreeExplainer, "shap_values", noting)
    _, explanations = explained(components, [{**row} for row in rows_of(table)[:31]])
    assert sum(sizes) == len(explanations) == 31
    assert max(sizes) <= 2


def test_linear_reasons_are_those_of_shap_and_name_every_level(tmp_path: Path) -> None:
    table = mixed_table(1000)
    draft, report = train(write_csv(tmp_path / "table.csv", table), target="bought", method="logit")
    components = save_components(tmp_path / "components", draft)
    probabilities, explanations = explained(components, [{**row} for row in rows_of(table)[:200]])
    evidence = report.evidence
    fitted = components.encoder.encode(evidence.values[evidence.fitted])  # noqa: PD011 - no pandas
    (chunk,) = components.parser(max_rows=200).chunks(msgspec.json.encode(rows_of(table)[:200]))
    background = shap.maskers.Independent(fitted, max_samples=len(fitted))
    of_shap = shap.LinearExplainer(components.model, background)
    values = of_shap.shap_values(components.encoder.encode(chunk.values))
    for row, explanation in enumerate(explanations):
        assert explanation.base == pytest.approx(of_shap.expected_value, abs=1e-9)
        assert explanation.score == pytest.approx(logit(probabilities[row, 1]), abs=1e-9)
        for column, contribution in explanation.contributions.items():
            features = [index for index, one in enumerate(components.encoder.features) if one.column == column]
            assert contribution == pytest.approx(values[row, features].sum(), abs=1e-9)
        place = table["place"][row] or "missing"
        said = {reason.column: reason.text for reason in explanation.reasons}
        if "place" in said:
            assert place in said["place"]
    assert {"place_east", "place_north", "place_south", "place (missing)"} <= set(report.coefficients)


def test_linear_reasons_do_not_depend_on_the_names_of_the_levels(tmp_path: Path) -> None:
    table = mixed_table(1000)
    other = table | {"place": [{"east": "zz east", "south": "a south"}.get(cell, cell) for cell in table["place"]]}
    found = []
    for content in (table, other):
        draft, _ = train(write_csv(tmp_path / "table.csv", content), target="bought", method="logit")
        components = save_components(tmp_path / "components", draft)
        _, explanations = explained(components, [{**row} for row in rows_of(content)[:50]])
        found.append([list(explanation.contributions.values()) for explanation in explanations])
    assert np.array(found[0]) == pytest.approx(np.array(found[1]), abs=1e-6)


@pytest.mark.parametrize("calibration", ["sigmoid", "isotonic"])
@pytest.mark.parametrize("method", ["logit", "trees"])
def test_a_calibrated_model_is_explained_by_its_score_before_calibration(
    tmp_path: Path, method: Method, calibration: Calibration
) -> None:
    table = mixed_table()
    draft, _ = train(write_csv(tmp_path / "table.csv", table), target="bought", method=method, calibration=calibration)
    components = save_components(tmp_path / "components", draft)
    _, explanations = explained(components, [{**row} for row in rows_of(table)[:20]])
    for explanation in explanations:
        check_sums(explanation)
        assert explanation.reasons
