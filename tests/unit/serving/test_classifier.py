"""Scoring the matrices of many preprocessors, with one version or several."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest
from support.graph import Graph, VersionedGraph

from serve_app.errors import NotScorableError, ScoringError


def test_a_matrix_waits_for_its_version_when_it_comes_to_a_classifier_first(versions: VersionedGraph) -> None:
    async def steps() -> Any:
        matrix = b"\0" * 8 * len(versions.two.manifest.features)
        early = asyncio.create_task(versions.classifier.score(versions.two.digest, matrix))
        await asyncio.sleep(0.01)
        assert not early.done()
        await versions.classifier.reconfigure({"serving": versions.named("two")})
        return await early

    assert len(asyncio.run(steps())) == 16


def test_matrices_of_two_versions_in_one_batch_are_scored_each_by_its_own(versions: VersionedGraph) -> None:
    matrix = b"\0" * 8 * len(versions.two.manifest.features)

    async def steps() -> tuple[list[Any], list[Any]]:
        await versions.reconfigure(serving=versions.named("two"), previous=versions.named("three"))
        digests = [versions.two.digest, versions.three.digest, versions.two.digest]
        alone = [await versions.classifier.score(digest, matrix) for digest in digests]
        return alone, list(await asyncio.gather(*(versions.classifier.score(digest, matrix) for digest in digests)))

    alone, together = asyncio.run(steps())
    assert together == alone
    assert together[0] != together[1]


@pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")
def test_a_matrix_that_the_model_cannot_take_fails_alone_in_a_batch_of_the_classifier(fragile: Graph) -> None:
    good, bad = np.array([[0.5, 0.25]]), np.array([[1e38, 0.25]])
    digest = fragile.preprocessor.serving.components.digest

    async def ask() -> list[Any]:
        score = fragile.classifier.score
        return await asyncio.gather(*(score(digest, matrix.tobytes()) for matrix in (good, bad, good)))

    first, refused, last = asyncio.run(ask())
    assert isinstance(refused, NotScorableError)
    assert first == last
    assert np.frombuffer(first).sum() == pytest.approx(1)
    assert 3 in fragile.scored


def test_other_components_in_the_classifier_are_noticed(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.serving.classifier._ARRIVAL_TIMEOUT_S", 0.1)
    answer = asyncio.run(graph.classifier.score("another digest", b""))
    assert isinstance(answer, ScoringError)
    assert "different model components" in str(answer)


def test_a_dead_batching_task_makes_a_replica_unhealthy(graph: Graph, example: dict[str, Any]) -> None:
    async def kill_and_ask() -> None:
        await graph.preprocessor.predict(json.dumps([example]).encode())
        await graph.classifier.check_health()
        for task in asyncio.all_tasks():
            if "_process_batches" in repr(task):
                task.cancel()
        await asyncio.sleep(0.01)
        await graph.classifier.check_health()

    with pytest.raises(RuntimeError, match="batching task has ended"):
        asyncio.run(kill_and_ask())
