"""A copy of the published components, to be changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path, components_folder: Path) -> Path:
    return Path(shutil.copytree(components_folder, tmp_path / "components"))


@pytest.fixture
def proof(tmp_path: Path) -> Path:
    """A folder that exists once a malicious pickle was executed."""
    return tmp_path / "executed"
