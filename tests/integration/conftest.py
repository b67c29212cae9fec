"""The real services that several modules share; tests/conftest.py has their tests follow each other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.applications import Applications, serve_applications
from support.serving import Server, run_command, serve, write_config


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The standard service, on all addresses as in a container; test_stopping.py ends it."""
    folder: Path = tmp_path_factory.mktemp("server")
    config, url = write_config(folder)
    command = [*run_command(config), "--drain-timeout", "600"]
    with serve(command, url, {"SERVE_APP_HOST": "0.0.0.0"}) as running:  # noqa: S104 - a test
        yield running


@pytest.fixture(scope="session")
def applications(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Applications]:
    """A service of several applications; test_faults.py ends it."""
    with serve_applications(tmp_path_factory.mktemp("applications")) as running:
        yield running
