"""What the OpenAPI document says about a model, that it is true, and what it must not say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fastapi.openapi.models import OpenAPI
from jsonschema import Draft202012Validator
from support.http_app import Service, ask
from support.own_tables import mixed_table, rows_of, write_csv

from serve_app.api.key_file import make_key
from serve_app.api.openapi import openapi_document
from serve_app.components.compiled import Components
from serve_app.components.saving import save_components
from serve_app.config import AccessSettings, Limits, Settings
from serve_app.scoring.drift import BinsDrift, Drift
from serve_app.serving.drift_window import WindowDrift
from serve_app.training.train import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Components:
    folder = tmp_path_factory.mktemp("trained")
    draft, _ = train(write_csv(folder / "table.csv", mixed_table()), target="bought", method="logit")
    return save_components(folder / "components", draft)


def document_of(components: Components, *, has_keys: bool = False) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.json.decode(
        msgspec.json.encode(openapi_document(components.manifest, Limits(), has_keys=has_keys))
    )
    return document


def example_of(components: Components) -> dict[str, Any]:
    document = document_of(components)
    (row,) = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["example"]
    return {**row}


def test_the_example_is_no_row_that_the_model_was_trained_on(trained: Components) -> None:
    shown = example_of(trained)
    assert set(shown) == set(trained.manifest.selected_features)
    for row in rows_of(mixed_table()):
        assert any(row[name] != str(value) for name, value in shown.items())
    assert shown not in [golden.row for golden in trained.manifest.golden]
    of_the_table = {name: {row[name] for row in rows_of(mixed_table())} for name in ("number", "paid")}
    assert not any(str(shown[name]) in cells for name, cells in of_the_table.items())


def test_the_example_can_be_scored_whatever_the_kinds_of_its_columns(trained: Components) -> None:
    assert {column.kind for column in trained.manifest.schema.columns} > {"money", "percent", "boolean", "date", "categorical"}
    (chunk,) = trained.parser(max_rows=1).chunks(msgspec.json.encode([example_of(trained)]))
    assert (chunk.rows, list(chunk.problems), list(chunk.warnings)) == (1, [], [])


@pytest.mark.parametrize(("path", "method"), [("/predict", "post"), ("/model", "get"), ("/drift", "get")])
def test_it_is_said_where_a_key_is_needed_and_only_where_there_are_keys(components: Components, path: str, method: str) -> None:
    guarded, open_to_all = (document_of(components, has_keys=has_keys)["paths"][path][method] for has_keys in (True, False))
    assert guarded["security"] == [{"apiKey": []}]
    assert {"401", "403", "429"} <= guarded["responses"].keys()
    assert "security" not in open_to_all
    assert not {"401", "403", "429"} & open_to_all["responses"].keys()


@pytest.mark.parametrize("has_keys", [False, True])
def test_it_is_an_openapi_document_with_json_schemas(trained: Components, has_keys: bool) -> None:
    document = document_of(trained, has_keys=has_keys)
    assert document["openapi"] == "3.1.0"
    OpenAPI.model_validate(document)
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


class DriftingService(Service):
    """One that has a report of drift: of many rows and of too few."""

    async def drift(self) -> WindowDrift:
        few = Drift(psi=0.5, verdict="too few rows", by_chance=0.9)
        many = BinsDrift(
            psi=0.1,
            verdict="stable",
            by_chance=0.01,
            missing=0.0,
            missing_in_training=0.0,
            shares=[0.5, 0.5],
            quantiles=[1.0],
            quantiles_in_training=[1.0],
        )
        return WindowDrift(window_seconds=3600, replicas=1, training_rows=10, rows=9, columns={"a": many, "b": few}, score=None)


def test_every_response_has_the_schema_that_is_documented_for_it(
    trained: Components, components: Components, example: dict[str, Any], tmp_path: Path
) -> None:
    access = AccessSettings(keys_file=str(tmp_path / "keys.json"))
    key = make_key(tmp_path / "keys.json", "everything")
    rows = json.dumps([example, {**example, "x53": "bad"}, {**example, "x5": "nowhere"}]).encode()
    seen = set()
    for service in (
        DriftingService(Settings(access=access), components),
        Service(Settings(access=access, limits=Limits(max_body_bytes=10)), trained),
    ):
        document = document_of(service.serving.components, has_keys=True)
        for method, path, body, query, token in (
            ("post", "/predict", rows, b"on_error=report&explain=true", key),
            ("post", "/predict", rows, b"", key),
            ("post", "/predict", b"nope", b"", key),
            ("post", "/predict", b"[]", b"", None),
            ("get", "/health", b"", b"", None),
            ("get", "/ready", b"", b"", None),
            ("get", "/model", b"", b"", key),
            ("get", "/drift", b"", b"", key),
        ):
            answer = ask(service, method.upper(), path, body, key=token, query=query)
            described = document["paths"][path][method]["responses"][str(answer.status)]
            schema = {**described["content"]["application/json"]["schema"], "components": document["components"]}
            Draft202012Validator(schema).validate(json.loads(answer.body))
            seen.add((path, answer.status))
    assert {("/predict", status) for status in (200, 400, 401, 413, 422)} <= seen
    assert {("/drift", 200), ("/drift", 404), ("/model", 200), ("/ready", 200), ("/health", 200)} <= seen


def test_a_schema_refuses_what_is_never_sent(components: Components) -> None:
    # Otherwise schemas that allow everything would pass the test above.
    document = document_of(components)
    for name, body in (
        (
            "BinaryAnswer",
            {"probability_positiveclass": 2, "probability_predictedclass": 1, "selected_features": [], "predicted_class": 0},
        ),
        ("ErrorBody", {"error": {"code": "x", "message": "y"}}),
        ("HealthBody", {"status": "dead"}),
        ("Row", {"x53": []}),
    ):
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        assert not Draft202012Validator(schema).is_valid(body)
