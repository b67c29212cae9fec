"""Tables of one's own, from training to answers, reasons and drift: four models and an imported one in one service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import requests
from scipy.special import expit
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from support.own_tables import bundled_table, mixed_table, rows_of, write_csv
from support.scoring import score
from support.serving import Server, run_command, serve, wait_until, write_config

from serve_app.components.compiled import Components
from serve_app.components.loading import load_components
from serve_app.components.saving import save_components
from serve_app.offline.pieces import plan
from serve_app.offline.score_piece import score_piece
from serve_app.training.import_estimator import import_estimator
from serve_app.training.methods import Method
from serve_app.training.results import TrainingReport
from serve_app.training.train import train

MODELS: dict[str, tuple[str, Method]] = {
    "breast_cancer": ("class", "logit"),
    "wine": ("class", "trees"),
    "digits": ("class", "logit"),
    "mixed": ("bought", "two-stage"),
}


IMPORTED = ["number", "place"]
SPLIT = {"wine", "mixed", "imported"}


@dataclass
class Served:
    """A model, the rows that it was fitted on, and where it is served."""

    table: dict[str, list[str]]
    csv: Path
    components: Components
    url: str

    def predict(self, rows: list[dict[str, Any]], **parameters: str) -> list[dict[str, Any]]:
        response = requests.post(f"{self.url}/predict", data=json.dumps(rows), params=parameters, timeout=60)
        assert response.status_code == 200, response.text
        answers: list[dict[str, Any]] = response.json()
        return answers


@dataclass
class Own(Served):
    """A model that was trained here."""

    target: str
    report: TrainingReport


def pipeline(csv: Path) -> Any:
    """What a user may have fitted on a number and a category, nulls in both, by means of scikit-learn and pandas alone."""
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    columns = make_column_transformer((numbers, ["number"]), (OneHotEncoder(handle_unknown="ignore"), ["place"]))
    frame = pd.read_csv(csv)
    return make_pipeline(columns, LogisticRegression()).fit(frame[IMPORTED], frame["bought"])


@pytest.fixture(scope="module")
def imported(own: dict[str, Own]) -> Served:
    mixed = own["mixed"]
    return Served(mixed.table, mixed.csv, load_components(mixed.csv.with_name("imported")), f"{mixed.url}/imported")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Own]]:
    folder = tmp_path_factory.mktemp("own")
    models: dict[str, Own] = {}
    for name, (target, method) in MODELS.items():
        table = mixed_table() if name == "mixed" else bundled_table(name)
        csv = write_csv(folder / f"{name}.csv", table)
        draft, report = train(csv, target=target, method=method)
        models[name] = Own(table, csv, save_components(folder / name, draft), "", target, report)
    joblib.dump(pipeline(folder / "mixed.csv"), folder / "mine.pkl")
    save_components(folder / "imported", import_estimator(folder / "mine.pkl", folder / "mixed.csv", target="bought"))

    def one_application_each(config: dict[str, Any]) -> None:
        (first,) = config["applications"]
        config["applications"] = []
        for name in (*models, "imported"):
            is_split = name in SPLIT
            ingresses = 2 if name == "wine" else 1
            replicas = {"min_replicas": ingresses, "max_replicas": ingresses, "target_ongoing_requests": 128}
            deployments = [{**one, "ray_actor_options": {"num_cpus": 0.1}} for one in first["deployments"]]
            deployments[0]["autoscaling_config"] = replicas
            config["applications"].append(
                {
                    **first,
                    "name": name,
                    "route_prefix": "/" if name == "mixed" else f"/{name}",
                    "args": {
                        **first["args"],
                        "components": str(folder / name),
                        "topology": "split" if is_split else "fused",
                    },
                    "deployments": deployments[: 1 + is_split],
                }
            )

    config, url = write_config(folder, one_application_each)
    with serve(run_command(config), url) as server:
        for name, model in models.items():
            model.url = url if name == "mixed" else f"{url}/{name}"
            wait_until(lambda model=model: is_ready(model.url), f"{name} is ready", 60)  # type: ignore[misc]
        wait_until(lambda: is_ready(f"{url}/imported"), "imported is ready", 60)
        assert isinstance(server, Server)
        yield models


def is_ready(url: str) -> bool:
    return requests.get(f"{url}/ready", timeout=10).status_code == 200


def probabilities(own: Served, answers: list[dict[str, Any]]) -> np.ndarray:
    classes = list(map(str, own.components.manifest.classes))
    if len(classes) == 2:
        positive = np.array([answer["probability_positiveclass"] for answer in answers])
        return np.column_stack([1 - positive, positive])
    return np.array([[answer["probabilities"][label] for label in classes] for answer in answers])


@pytest.mark.parametrize("name", MODELS)
def test_what_is_served_is_as_good_as_the_report_says_and_the_same_offline(
    own: dict[str, Own], name: str, tmp_path: Path
) -> None:
    model = own[name]
    rows: list[dict[str, Any]] = [{**row} for row in rows_of(model.table)]
    served = probabilities(model, model.predict(rows))
    assert np.array_equal(served, score(model.components, rows))
    alone = np.concatenate([probabilities(model, model.predict([row])) for row in rows[:5]])
    assert np.array_equal(alone, served[:5])

    held_back = model.report.evidence.held_back
    labels = np.array(model.table[model.target])[held_back]
    classes = list(map(str, model.components.manifest.classes))
    if len(classes) == 2:
        auc = roc_auc_score(labels == classes[1], served[held_back, 1])
    else:
        auc = roc_auc_score(labels, served[held_back], multi_class="ovr", labels=classes)
    assert auc == pytest.approx(model.report.held_back.auc, abs=1e-12)

    (piece,) = plan(str(model.csv))
    score_piece(piece, str(model.csv), str(tmp_path), model.components, form="jsonl", keep=())
    lines = [json.loads(line) for line in (tmp_path / "part-000000.jsonl").read_bytes().splitlines()]
    shown = served[:, 1:] if len(classes) == 2 else served
    names = ["positiveclass"] if len(classes) == 2 else classes
    assert np.array_equal([[line[f"probability_{label}"] for label in names] for line in lines], shown)


def test_an_imported_pipeline_answers_over_http_what_it_answers_by_itself(imported: Served) -> None:
    rows: list[dict[str, Any]] = [{**row} for row in rows_of(imported.table)]
    served = probabilities(imported, imported.predict(rows))
    by_itself = joblib.load(imported.csv.with_name("mine.pkl")).predict_proba(pd.read_csv(imported.csv)[IMPORTED])
    assert served == pytest.approx(by_itself, abs=1e-12)
    alone = np.concatenate([probabilities(imported, imported.predict([row])) for row in rows[:5]])
    assert np.array_equal(alone, served[:5])
    shown = requests.get(f"{imported.url}/model", timeout=10).json()
    assert shown["scored_by"].startswith("scikit-learn")
    unexplained = requests.post(f"{imported.url}/predict?explain=true", data=json.dumps(rows[:1]), timeout=60)
    assert (unexplained.status_code, unexplained.json()["error"]["code"]) == (422, "not_explainable")


@pytest.mark.parametrize("name", MODELS)
def test_an_answer_comes_with_reasons_when_asked_for(own: dict[str, Own], name: str) -> None:
    model = own[name]
    rows: list[dict[str, Any]] = [{**row} for row in rows_of(model.table)[:3]]
    plain = model.predict(rows)
    for answer, explained in zip(plain, model.predict(rows, explain="true"), strict=True):
        explanation = explained.pop("explanation")
        assert explained == answer
        total = explanation["base"] + sum(explanation["contributions"].values())
        assert explanation["score"] == pytest.approx(total, abs=1e-9)
        if "probability_positiveclass" in answer:
            assert expit(explanation["score"]) == pytest.approx(answer["probability_positiveclass"], abs=1e-12)
        else:
            assert explanation["of_class"] == answer["predicted_class"]
        assert explanation["reasons"]


def test_explaining_has_a_limit_of_rows_and_two_words(own: dict[str, Own]) -> None:
    model = own["mixed"]
    row = rows_of(model.table)[0]
    many = requests.post(f"{model.url}/predict?explain=true", data=json.dumps([row] * 1001), timeout=60)
    assert (many.status_code, many.json()["error"]["code"]) == (413, "too_many_rows")
    unknown = requests.post(f"{model.url}/predict?explain=please", data=json.dumps([row]), timeout=60)
    assert (unknown.status_code, unknown.json()["error"]["message"]) == (422, "explain is either true or false")


def test_drift_is_told_of_all_rows_that_all_replicas_saw(own: dict[str, Own]) -> None:
    model = own["wine"]
    drift: dict[str, Any] = {}
    column, *_ = model.components.manifest.selected_features
    rows: list[dict[str, Any]] = [{**row, column: 1000} for row in rows_of(model.table)]
    before = requests.get(f"{model.url}/drift", timeout=60).json()["rows"]
    sent = 0

    def both_have_told() -> bool:
        nonlocal sent
        model.predict(rows)
        sent += len(rows)
        drift.update(requests.get(f"{model.url}/drift", timeout=60).json())
        return bool(drift["replicas"] == 2)

    wait_until(both_have_told, "two replicas have told what they saw", 60)

    def all_are_counted() -> bool:
        drift.update(requests.get(f"{model.url}/drift", timeout=60).json())
        return bool(drift["rows"] >= before + sent)

    wait_until(all_are_counted, "all rows are counted", 60)
    assert (drift["model"], drift["training_rows"]) == ("wine", model.report.train.rows)
    assert drift["columns"][column]["verdict"] == "drifted"
    assert drift["columns"][column]["psi"] > max(one["psi"] for name, one in drift["columns"].items() if name != column)
    assert drift["window_seconds"] == 3600


def test_the_drift_of_another_model_is_its_own(own: dict[str, Own]) -> None:
    model = own["digits"]
    rows: list[dict[str, Any]] = [{**row} for row in rows_of(model.table)]
    model.predict(rows)
    found: dict[str, Any] = {}

    def is_counted() -> bool:
        found.update(requests.get(f"{model.url}/drift", timeout=60).json())
        return bool(found["rows"] >= len(rows))

    wait_until(is_counted, "the rows are counted", 60)
    assert {one["verdict"] for one in found["columns"].values()} == {"stable"}
