"""Tables of one's own, from training to answers, reasons and drift: four models and an imported one in one service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import requests
from scipy.special import expit
from sklearn.metrics import roc_auc_score
from support.applications import IMPORTED, MODELS, Applications, Own, Served
from support.own_tables import rows_of
from support.scoring import score
from support.serving import wait_until

from serve_app.offline.pieces import plan
from serve_app.offline.score_piece import score_piece


@pytest.fixture(scope="module")
def own(applications: Applications) -> dict[str, Own]:
    return applications.own


@pytest.fixture(scope="module")
def imported(applications: Applications) -> Served:
    return applications.imported


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
