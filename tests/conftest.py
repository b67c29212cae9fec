"""What several tests need: the published model, its example row, rows of the same shape."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from serve_app.components.compiled import Components
from serve_app.components.loading import load_components
from serve_app.config import PROJECT_ROOT
from serve_app.exercise.published_model import PublishedModel, load_published_model

# Speed is no property of what is tested, and the machine may be busy.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

SHARED_SERVICES = ("server", "applications")
"""Fixtures that start a real service for the tests of several modules."""

RowMaker = Callable[[int, int], list[dict[str, Any]]]


@pytest.hookimpl(wrapper=True)  # runs before pytest-xdist's own hook, which reads the groups, whichever is registered first
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None, None, None]:
    """Orders the tests and distributes them over the processes of pytest-xdist.

    Tests that share a service follow each other in one process, and the one that ends it comes last. The tests of any other
    module stay together. What needs a service begins first, because it takes longest.
    """
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(_group(item)))
    items.sort(key=_place)
    return (yield)


def _group(item: pytest.Item) -> str:
    for service in SHARED_SERVICES:
        if service in getattr(item, "fixturenames", ()):
            return service
    return item.location[0]


def _place(item: pytest.Item) -> tuple[int, bool]:
    group = _group(item)
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
