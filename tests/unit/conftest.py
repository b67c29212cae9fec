"""A small file of rows with the answers to it, as the generator writes them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from serve_app.components.compiled import Components
from serve_app.exercise.stand_in_data import generate
from serve_app.offline.expected_answers import write_expectations
from stress.dataset import Dataset, load_dataset
from stress.service import ServedModel


@pytest.fixture(scope="session")
def dataset_folder(tmp_path_factory: pytest.TempPathFactory, components: Components) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    stand_in = generate(folder, train_rows=1, test_rows=30)
    write_expectations(stand_in.test, folder / "expected.json", components)
    return folder


@pytest.fixture(scope="session")
def dataset(dataset_folder: Path) -> Dataset:
    return load_dataset(dataset_folder)


@pytest.fixture(scope="session")
def served(components: Components) -> ServedModel:
    """The published model as ``GET /model`` names it."""
    manifest = components.manifest
    said = {
        "name": manifest.name,
        "version": manifest.version,
        "digest": components.digest,
        "selected_features": manifest.selected_features,
        "schema": manifest.schema,
    }
    return msgspec.json.decode(msgspec.json.encode(said), type=ServedModel)
