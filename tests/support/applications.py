"""One real service of several applications: what a test module needs beyond the standard service is an application here.

A service starts a dozen processes before the first replica; another application starts its replicas only. Owns the trained
models, the config and each application's URL. Knows no test.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import requests
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from support.own_tables import bundled_table, mixed_table, write_csv
from support.serving import STANDARD, Server, free_port, run_command, serve, wait_until, write_config

from serve_app.components.compiled import Components
from serve_app.components.saving import save_components
from serve_app.config import PROJECT_ROOT
from serve_app.training.import_estimator import import_estimator
from serve_app.training.methods import Method
from serve_app.training.results import TrainingReport
from serve_app.training.train import train

__all__ = ["IMPORTED", "MODELS", "ROOM", "Applications", "Own", "Served", "serve_applications"]

MODELS: dict[str, tuple[str, Method]] = {
    "breast_cancer": ("class", "logit"),
    "wine": ("class", "trees"),
    "digits": ("class", "logit"),
    "mixed": ("bought", "two-stage"),
}
"""The target and the method of each model that is trained on a table of one's own."""

IMPORTED = ["number", "place"]
"""Columns of the mixed table that the imported estimator uses."""

ROOM = 6
"""Requests at once that the application ``small`` accepts: four are scored and two wait."""

_SPLIT = {"wine", "mixed"}  # each Classifier is one more process to start
_STAND_IN_ROWS = 5000
_READY_TIMEOUT_S = 120
# Ray's defaults are ten times as long. It forgets a gauge that is not set again within two reports; health checks set them.
_REPORT_INTERVAL_MS = 2000
_HEALTH_CHECK_PERIOD_S = 1.0


@dataclass
class Served:
    """A model, the rows that it was fitted on, and where it is served."""

    table: dict[str, list[str]]
    csv: Path
    components: Components
    url: str

    def predict(self, rows: list[dict[str, Any]], **parameters: str) -> list[dict[str, Any]]:
        """The answers of one call, which must succeed."""
        response = requests.post(f"{self.url}/predict", data=json.dumps(rows), params=parameters, timeout=60)
        assert response.status_code == 200, response.text
        answers: list[dict[str, Any]] = response.json()
        return answers


@dataclass
class Own(Served):
    """A model that was trained on a table of one's own."""

    target: str
    report: TrainingReport


@dataclass(frozen=True)
class Applications:
    """The running service, its models, and the port of its metrics."""

    server: Server
    own: dict[str, Own]
    imported: Served
    measured: Components
    metrics_port: int

    def at(self, name: str) -> Server:
        """The service as the clients of one application see it."""
        return replace(self.server, url=f"{self.server.url}{_prefix(name)}".rstrip("/"))


@contextlib.contextmanager
def serve_applications(folder: Path) -> Iterator[Applications]:
    """Trains the models, serves each as an application of its own, and stops the service with the block."""
    own = _train_own(folder)
    joblib.dump(_pipeline(folder / "mixed.csv"), folder / "mine.pkl")
    draft = import_estimator(folder / "mine.pkl", folder / "mixed.csv", target="bought")
    mixed = own["mixed"]
    imported = Served(mixed.table, mixed.csv, save_components(folder / "imported", draft), "")
    measured = _train_measured(folder)

    def edit(config: dict[str, Any]) -> None:
        (standard,) = config["applications"]
        config["applications"] = [
            _released_application(standard),  # the first: `deploy` and `rollback` change that one
            *(_own_application(standard, name, folder) for name in (*own, "imported")),
            _measured_application(standard, folder),
            _small_application(standard),
        ]

    config, url = write_config(folder, edit)
    metrics_port = free_port()
    command = [*run_command(config), "--metrics-port", str(metrics_port)]
    with serve(command, url, {"RAY_metrics_report_interval_ms": str(_REPORT_INTERVAL_MS)}) as server:
        applications = Applications(server, own, imported, measured, metrics_port)
        for name, model in (*own.items(), ("imported", imported)):
            model.url = applications.at(name).url
        for name in (*own, "imported", "measured", "small"):
            wait_until(lambda name=name: _is_ready(applications.at(name)), f"{name} is ready", _READY_TIMEOUT_S)  # type: ignore[misc]
        yield applications


def _train_own(folder: Path) -> dict[str, Own]:
    models: dict[str, Own] = {}
    for name, (target, method) in MODELS.items():
        table = mixed_table() if name == "mixed" else bundled_table(name)
        csv = write_csv(folder / f"{name}.csv", table)
        draft, report = train(csv, target=target, method=method)
        models[name] = Own(table, csv, save_components(folder / name, draft), "", target, report)
    return models


def _pipeline(csv: Path) -> Any:
    """What a user may have fitted on a number and a category, nulls in both, with scikit-learn and pandas alone."""
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    columns = make_column_transformer((numbers, ["number"]), (OneHotEncoder(handle_unknown="ignore"), ["place"]))
    frame = pd.read_csv(csv)
    return make_pipeline(columns, LogisticRegression()).fit(frame[IMPORTED], frame["bought"])


def _train_measured(folder: Path) -> Components:
    """A model of the columns of the published one, whose manifest describes how it was trained."""
    table = folder / "stand_in.csv"
    with (PROJECT_ROOT / "data" / "train.csv").open(encoding="utf-8") as rows, table.open("w", encoding="utf-8") as few:
        few.writelines(line for _, line in zip(range(1 + _STAND_IN_ROWS), rows, strict=False))
    draft, _ = train(table, target="y", method="two-stage", name="trained-here")
    return save_components(folder / "measured", draft)


def _prefix(name: str) -> str:
    return "/" if name == STANDARD else f"/{name}"


def _application(standard: dict[str, Any], name: str, deployments: list[dict[str, Any]], **args: Any) -> dict[str, Any]:
    """The standard application under another name, path and arguments; all of them fit on one CPU."""
    return {
        **standard,
        "name": name,
        "route_prefix": _prefix(name),
        "args": {**standard["args"], **args},
        "deployments": [{**one, "ray_actor_options": {"num_cpus": 0.05}} for one in deployments],
    }


def _fixed(replicas: int) -> dict[str, Any]:
    return {"min_replicas": replicas, "max_replicas": replicas, "target_ongoing_requests": 128}


def _released_application(standard: dict[str, Any]) -> dict[str, Any]:
    """The committed application with Preprocessors that do not switch versions at the same moment."""
    preprocessor, classifier = standard["deployments"]
    return _application(standard, STANDARD, [{**preprocessor, "autoscaling_config": _fixed(2)}, classifier])


def _own_application(standard: dict[str, Any], name: str, folder: Path) -> dict[str, Any]:
    preprocessor, classifier = standard["deployments"]
    preprocessor = {**preprocessor, "autoscaling_config": _fixed(2 if name == "wine" else 1)}
    is_split = name in _SPLIT
    deployments = [preprocessor, classifier] if is_split else [preprocessor]
    topology = "split" if is_split else "fused"
    return _application(standard, name, deployments, components=str(folder / name), topology=topology)


def _measured_application(standard: dict[str, Any], folder: Path) -> dict[str, Any]:
    told_often = {"health_check_period_s": _HEALTH_CHECK_PERIOD_S, "autoscaling_config": _fixed(1)}
    deployments = [{**one, **told_often} for one in standard["deployments"]]
    return _application(standard, "measured", deployments, components=str(folder / "measured"))


def _small_application(standard: dict[str, Any]) -> dict[str, Any]:
    preprocessor, _ = standard["deployments"]
    preprocessor = {key: value for key, value in preprocessor.items() if key != "autoscaling_config"}
    preprocessor |= {"num_replicas": 1, "max_ongoing_requests": 4, "max_queued_requests": ROOM - 4}
    limits = {**standard["args"]["limits"], "idle_timeout_s": 3.0, "max_body_bytes": 100_000}
    return _application(standard, "small", [preprocessor], limits=limits, topology="fused")


def _is_ready(server: Server) -> bool:
    return bool(requests.get(f"{server.url}/ready", timeout=10).status_code == requests.codes.ok)
