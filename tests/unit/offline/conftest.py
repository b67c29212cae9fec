from __future__ import annotations

from pathlib import Path

import pytest
from support.own_tables import mixed_table, write_csv

from serve_app.components.compiled import Components
from serve_app.components.loading import load_components
from serve_app.components.saving import save_components
from serve_app.training.train import train


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    draft, _ = train(write_csv(folder / "table.csv", mixed_table()), target="bought", method="logit")
    save_components(folder / "components", draft)
    return folder / "components"


@pytest.fixture(scope="module")
def mixed(model_folder: Path) -> Components:
    return load_components(model_folder)
