"""Answering requests, with a Classifier and without."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from typing import Any

from support.graph import Graph

from serve_app.serving.preprocessor import Preprocessor


def test_the_fused_topology_answers_the_same_without_a_hop(graph: Graph, make_rows: Any) -> None:
    body = json.dumps(make_rows(5000, 4)).encode()
    fused = Preprocessor(graph.settings, None)
    assert asyncio.run(fused.predict(body)) == asyncio.run(graph.preprocessor.predict(body))
    assert len(graph.hops) == 2


def test_readiness_is_a_round_trip_with_the_right_answers(graph: Graph) -> None:
    async def readiness() -> list[bool]:
        found = [await graph.preprocessor.is_ready()]
        graph.handle.failure = ConnectionError("lost")
        found.append(await graph.preprocessor.is_ready())
        graph.handle.failure = None
        graph.preprocessor.serving._golden_probabilities += 1e-9
        return [*found, await graph.preprocessor.is_ready()]

    assert asyncio.run(readiness()) == [True, False, False]


def test_a_large_request_takes_less_memory_than_its_own_body(graph: Graph, make_rows: Any) -> None:
    body = json.dumps(make_rows(200, 5) * 40).encode()
    fused = Preprocessor(graph.settings, None)
    tracemalloc.start()
    try:
        asyncio.run(fused.predict(body))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(body) > 10 * 2**20
    assert peak < len(body)


def test_neighbours_are_answered_while_a_large_request_is_read(graph: Graph, example: dict[str, Any], make_rows: Any) -> None:
    large = json.dumps(make_rows(200, 6) * 20).encode()
    small = json.dumps([example]).encode()
    fused = Preprocessor(graph.settings, None)
    finished: list[str] = []

    async def ask(name: str, body: bytes) -> None:
        await fused.predict(body)
        finished.append(name)

    async def ask_both() -> None:
        await asyncio.gather(ask("large", large), ask("small", small))

    asyncio.run(ask_both())
    assert finished == ["small", "large"]
