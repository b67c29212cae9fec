"""What several tests need: the published model, its example row, rows of the same shape."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from serve_app.components.compiled import Components
from serve_app.components.loading import load_components
from serve_app.config import PROJECT_ROOT
from serve_app.exercise.published_model import PublishedModel, load_published_model

# Speed is no property of what is tested, and the machine may be busy.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

SHARED_SERVICES = {
    "server": ("test_api", "test_consistency", "test_drift_absent", "test_stress", "test_stopping"),
    "applications": ("test_metrics", "test_own_tables", "test_release", "test_faults"),
}
"""Fixtures that start a real service for the tests of several modules of tests/integration, and which modules those are."""

RowMaker = Callable[[int, int], list[dict[str, Any]]]


class _ByService(LoadScopeScheduling):  # type: ignore[misc]
    """Gives all tests that share a service to one process, and otherwise all tests of a module."""

    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid.partition("::")[0])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """The scheduler of pytest-xdist. Its own groups (``xdist_group``) do not work with pytest 9.2."""
    return _ByService(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders the tests: what needs a service first, because it takes longest, and what ends a shared service after its others.

    Raises:
        pytest.UsageError: a test uses a shared service, but SHARED_SERVICES does not list its module.
    """
    for item in items:
        for service in SHARED_SERVICES:
            if service in getattr(item, "fixturenames", ()) and _group(item.location[0]) != service:
                raise pytest.UsageError(f"{item.nodeid} uses {service!r}: list its module in SHARED_SERVICES")
    items.sort(key=_place)


def _group(path: str) -> str:
    """The shared service of a module, or its path."""
    name = Path(path).stem
    found = [service for service, modules in SHARED_SERVICES.items() if name in modules and "integration" in Path(path).parts]
    return found[0] if found else path


def _place(item: pytest.Item) -> tuple[int, bool]:
    group = _group(item.location[0])
    places = [*SHARED_SERVICES, "integration", "e2e"]
    found = [place for place, name in enumerate(places) if name == group or f"/{name}/" in group]
    return min(found, default=len(places)), item.get_closest_marker("ends_service") is not None


@pytest.fixture(scope="session")
def published() -> PublishedModel:
    return load_published_model()


@pytest.fixture(scope="session")
def example(published: PublishedModel) -> dict[str, Any]:
    return published.example.request[0]


@pytest.fixture(scope="session")
def components_folder() -> Path:
    return PROJECT_ROOT / "model_components"


@pytest.fixture(scope="session")
def components(components_folder: Path) -> Components:
    return load_components(components_folder)


@pytest.fixture(scope="session")
def make_rows(published: PublishedModel) -> RowMaker:
    """Rows as clients send them: (count, seed) -> rows with nulls, texts, money, percent and unknown categories."""

    def make(count: int, seed: int) -> list[dict[str, Any]]:
        random = np.random.default_rng(seed)
        rows = []
        for _ in range(count):
            row: dict[str, Any] = {}
            for name in published.columns:
                kind = random.random()
                if kind < 0.05:
                    row[name] = None
                elif name in published.categorical:
                    levels = [*published.categorical[name], "somewhere"]
                    row[name] = str(random.choice(levels))
                else:
                    moments = published.numeric[name]
                    value = round(float(random.normal(moments.mean, moments.std)), 8)
                    row[name] = f"{value}" if kind < 0.1 else value
                    if name in published.money_columns:
                        row[name] = f"${value:,.2f}" if value >= 0 else f"(${-value:,.2f})"
                    elif name in published.percent_columns:
                        row[name] = f"{value:.2f}%"
            rows.append(row)
        return rows

    return make
