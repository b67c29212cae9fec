"""When a failed step is tried again."""

from __future__ import annotations

import asyncio

import pytest
from support.graph import VersionedGraph

from serve_app.serving.retry import Retry


def test_the_pauses_between_attempts_double_up_to_a_minute(versions: VersionedGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    now, attempts = [0.0], [0]
    monkeypatch.setattr("serve_app.serving.retry.perf_counter", lambda: now[0])

    async def attempt() -> None:
        attempts[0] += 1

    async def steps() -> list[int]:
        retry = Retry()
        seen: list[int] = []
        for _ in range(200):
            now[0] += 1
            retry.maybe(attempt)
            await asyncio.sleep(0)
            if attempts[0] > len(seen):
                seen.append(int(now[0]))
        return seen

    assert asyncio.run(steps()) == [5, 15, 35, 75, 135, 195]
