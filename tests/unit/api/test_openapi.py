"""What the OpenAPI document says of a model, and what it must not say."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from support.own_tables import mixed_table, rows_of, write_csv

from serve_app.api.openapi import openapi_document
from serve_app.components.compiled import Components
from serve_app.components.saving import save_components
from serve_app.config import Limits
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
