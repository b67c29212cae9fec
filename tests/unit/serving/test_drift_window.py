from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import numpy as np
import pytest

from serve_app.scoring.distribution import Distribution, describe
from serve_app.scoring.schema import Column
from serve_app.serving import drift_window
from serve_app.serving.drift_window import PANE_S, PANES, Collector, DriftWindow, WindowDrift


class Handle:
    """A Collector in this process, called as Ray's actors are."""

    def __init__(self) -> None:
        self.collector = Collector()
        self.put, self.get = (self._Method(method) for method in (self.collector.put, self.collector.get))

    class _Method:
        def __init__(self, method: Any) -> None:
            self._method = method

        async def remote(self, *arguments: Any) -> Any:
            return self._method(*arguments)


class Clock:
    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def distribution() -> Distribution:
    random = np.random.default_rng(0)
    return describe([Column("n", "numeric")], random.normal(size=(5000, 1)), random.random(5000))


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> Handle:
    handle = Handle()
    monkeypatch.setattr(drift_window, "_find_or_make_actor", lambda: handle)
    return handle


def rows(count: int, seed: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    scores = random.random(count)
    return random.normal(shift, 1, (count, 1)), np.column_stack([1 - scores, scores])


def test_every_replica_reports_the_rows_of_all_replicas(distribution: Distribution, handle: Handle) -> None:
    async def ask() -> WindowDrift:
        first, second = (DriftWindow("digest", distribution, name) for name in ("one", "two"))
        other_model = DriftWindow("another", distribution, "three")
        first.record(*rows(1000, 1))
        second.record(*rows(1500, 2, shift=3))
        other_model.record(*rows(700, 3))
        await second.report()
        await other_model.report()
        return await first.report()

    found = asyncio.run(ask())
    assert (found.rows, found.replicas, found.training_rows) == (2500, 2, 5000)
    assert found.columns["n"].verdict == "drifted"
    assert found.score
    assert found.score.verdict == "stable"


def test_of_few_rows_no_cell_can_be_read(distribution: Distribution, handle: Handle) -> None:
    async def ask(count: int) -> Any:
        window = DriftWindow(f"of {count}", distribution, "one")
        window.record(np.full((count, 1), 0.123456), rows(count, 1)[1])
        return msgspec.to_builtins(await window.report())

    few, many = asyncio.run(ask(1)), asyncio.run(ask(1000))
    assert few["columns"]["n"]["verdict"] == few["score"]["verdict"] == "too few rows"
    assert few["columns"]["n"].keys() == few["score"].keys() == {"psi", "verdict", "by_chance"}
    assert "0.123456" not in str(few)
    assert many["columns"]["n"].keys() > {"quantiles", "shares", "missing"}


def test_rows_older_than_the_window_are_forgotten(distribution: Distribution, handle: Handle) -> None:
    clock = Clock()

    async def ask() -> list[int]:
        window = DriftWindow("digest", distribution, "one", clock)
        seen = []
        for step in range(PANES + 2):
            window.record(*rows(100 + step, step))
            seen.append((await window.report()).rows)
            clock.now += PANE_S
        return seen

    seen = asyncio.run(ask())
    assert seen[0] == 100
    assert seen[PANES - 1] == sum(range(100, 100 + PANES))
    assert seen[PANES + 1] == sum(range(102, 102 + PANES))
    assert len(handle.collector._held["digest"]) == PANES


def test_a_pane_that_ends_before_it_was_sent_is_sent_later(distribution: Distribution, handle: Handle) -> None:
    clock = Clock()

    async def ask() -> WindowDrift:
        window = DriftWindow("digest", distribution, "one", clock)
        window.record(*rows(10, 0))
        clock.now += PANE_S
        window.record(*rows(20, 1))
        return await window.report()

    assert asyncio.run(ask()).rows == 30


def test_counts_are_sent_without_a_request(distribution: Distribution, handle: Handle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift_window, "_SEND_INTERVAL_S", 0.01)

    async def wait() -> None:
        window = DriftWindow("digest", distribution, "one")
        for seed in (0, 1):  # twice: sending starts again with the next rows
            window.record(*rows(10, seed))
            assert window._task is not None
            await window._task
        assert window._sent_rows == 20

    asyncio.run(wait())
    assert len(handle.collector.get("digest", 0)) == 1


def test_a_replica_reports_the_index_of_its_own_rows(distribution: Distribution, handle: Handle) -> None:
    async def tell() -> tuple[dict[str, float], dict[str, float]]:
        window = DriftWindow("digest", distribution, "one")
        before = window.psi()
        window.record(*rows(2000, 4, shift=2))
        return before, window.psi()

    before, after = asyncio.run(tell())
    assert before == {}
    assert after["n"] > 1
    assert after["(score)"] < 0.1


def test_requests_without_rows_are_not_counted(distribution: Distribution, handle: Handle) -> None:
    async def tell() -> tuple[dict[str, float], WindowDrift]:
        window = DriftWindow("digest", distribution, "one")
        window.record(*rows(0, 0))
        return window.psi(), await window.report()

    index, found = asyncio.run(tell())
    assert index == {}
    assert (found.rows, found.replicas, found.score) == (0, 0, None)
