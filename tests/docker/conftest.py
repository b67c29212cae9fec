"""The image, built once, and what the tests of it have measured, told at the end."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from support.containers import IMAGE, docker, inspect, provide_image

_FIGURES = pytest.StashKey[list[str]]()
_PUBLIC = {
    "PROMETHEUS_IMAGE": ("prom/prometheus:v3.5.0", "prometheus"),
    "REDIS_IMAGE": ("redis:7.0.15", "redis"),
    "GRAFANA_IMAGE": ("grafana/grafana:12.1.1", "grafana"),
}

Tell = Callable[[str], None]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_FIGURES] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for figure in config.stash[_FIGURES]:
        terminalreporter.write_line(f"docker: {figure}")


@pytest.fixture(scope="session")
def tell(pytestconfig: pytest.Config) -> Tell:
    """Adds a line to what is told at the end."""
    return pytestconfig.stash[_FIGURES].append


@pytest.fixture(scope="session")
def image(tell: Tell) -> str:
    """The project's image, as the command of docs/running.md builds it."""
    start = time.monotonic()
    docker("build", "-t", IMAGE, ".")
    tell(f"the image is {inspect(IMAGE)['Size'] / 1e6:.0f} MB, built in {time.monotonic() - start:.0f} s")
    return IMAGE


@pytest.fixture(scope="session")
def images(image: str, tell: Tell) -> dict[str, str]:
    """By variable of docker-compose.yaml, the image to use; without those that cannot be had."""
    found = {}
    for variable, (public, stand_in) in _PUBLIC.items():
        provided = provide_image(public, stand_in)
        if provided is None:
            tell(f"{public} cannot be pulled: tested without it")
            continue
        if provided != public:
            tell(f"{public} cannot be pulled: Debian's package stands in for it")
        found[variable] = provided
    return found
