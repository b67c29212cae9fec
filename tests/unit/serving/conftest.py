"""Graphs of both deployments for the tests of this room."""

from __future__ import annotations

from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from support.graph import Graph, VersionedGraph, fake_replica_context
from support.own_tables import write_csv
from support.variants import publish_variant

from serve_app.components.compiled import Components
from serve_app.components.saving import save_components
from serve_app.config import Settings
from serve_app.training.import_estimator import import_estimator


@pytest.fixture(autouse=True)
def _replica_context(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_replica_context(monkeypatch)


@pytest.fixture
def graph() -> Graph:
    return Graph()


@pytest.fixture(scope="session")
def variants_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("variants")


@pytest.fixture(scope="session")
def variants(variants_folder: Path) -> dict[str, Components]:
    return {
        "two": publish_variant(variants_folder / "two", "2.0.0"),
        "three": publish_variant(variants_folder / "three", "3.0.0", shift=-0.5),
    }


@pytest.fixture
def versions(tmp_path: Path, variants: dict[str, Components], variants_folder: Path) -> VersionedGraph:
    return VersionedGraph(tmp_path, variants, variants_folder)


@pytest.fixture(scope="session")
def fragile_components(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose estimator raises for numbers that are valid by themselves: their tenth power is not finite."""
    folder = tmp_path_factory.mktemp("fragile")
    random = np.random.default_rng(5)
    matrix = random.normal(size=(200, 2))
    classes = (matrix[:, 0] > matrix[:, 1]).astype(int)
    estimator = make_pipeline(PolynomialFeatures(10), StandardScaler(), LogisticRegression(max_iter=10_000)).fit(
        matrix, classes
    )
    joblib.dump(estimator, folder / "fragile.pkl")
    table = {name: [repr(float(cell)) for cell in matrix[:, index]] for index, name in enumerate("ab")}
    sample = write_csv(folder / "sample.csv", table)
    save_components(folder / "fragile", import_estimator(folder / "fragile.pkl", sample, target="y"))
    return folder / "fragile"


@pytest.fixture
def fragile(fragile_components: Path) -> Graph:
    return Graph(Settings(components=str(fragile_components)))
