"""One request through one version; how the rows of several requests are merged, counted instead of timed."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import pytest
from support.graph import Graph
from support.scoring import score

from serve_app.components.compiled import Components
from serve_app.errors import NotScorableError, ScoringError
from serve_app.scoring.arrays import Array
from serve_app.serving.preprocessor import Preprocessor


def test_concurrent_requests_share_hops(graph: Graph, example: dict[str, Any]) -> None:
    answers = graph.predict([json.dumps([example]).encode()] * 64)
    assert all(answer == answers[0] for answer in answers)
    assert sum(graph.hops) == 64
    assert len(graph.hops) <= 4


def test_a_lone_request_waits_for_nobody(graph: Graph, example: dict[str, Any]) -> None:
    graph.predict([json.dumps([example]).encode()])
    assert graph.hops == graph.scored == [1]


def test_a_large_request_crosses_in_pieces_that_fit(graph: Graph, example: dict[str, Any]) -> None:
    (answers,) = graph.predict([json.dumps([example] * 10_000).encode()])
    assert len(answers) == 10_000
    assert sorted(graph.hops) == [10_000 - 2 * 4096, 4096, 4096]


def test_each_request_gets_its_own_rows_back(graph: Graph, make_rows: Any, components: Components) -> None:
    rows = make_rows(400, 3)
    cuts = [0, 1, 2, 5, 5, 80, 81, 200, 399, 400]
    bodies = [json.dumps(rows[a:b]).encode() for a, b in itertools.pairwise(cuts)]
    found = [answer["probability_positiveclass"] for part in graph.predict(bodies) for answer in part]
    assert found == score(components, rows)[:, 1].tolist()


def test_a_failing_classifier_fails_the_requests_and_not_the_preprocessor(
    graph: Graph, example: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    body = json.dumps([example]).encode()

    async def fail_then_recover() -> list[Any]:
        graph.handle.failure = ConnectionError("lost")
        failed = await asyncio.gather(*map(graph.preprocessor.predict, [body] * 3), return_exceptions=True)
        graph.handle.failure = None
        return [*failed, await graph.preprocessor.predict(body)]

    *failed, answered = asyncio.run(fail_then_recover())
    assert [str(error) for error in failed] == ["the classifier failed: ConnectionError"] * 3
    assert all(isinstance(error, ScoringError) for error in failed)
    assert json.loads(b"".join(answered))[0]["predicted_class"] == 0


@pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")
def test_a_row_that_the_model_cannot_take_fails_its_own_request_and_no_neighbour(
    fragile: Graph, caplog: pytest.LogCaptureFixture
) -> None:
    bodies = [json.dumps({"a": index / 10, "b": 0.5}).encode() for index in range(20)]
    mixed = [b'{"a": 1e38, "b": 0.5}' if place in {7, 15} else body for place, body in enumerate(bodies)]
    fused = Preprocessor(fragile.settings, None)

    async def ask() -> list[list[Any]]:
        alone = [await fragile.preprocessor.predict(body) for body in bodies]
        split = await asyncio.gather(*map(fragile.preprocessor.predict, mixed), return_exceptions=True)
        return [alone, split, await asyncio.gather(*map(fused.predict, mixed), return_exceptions=True)]

    alone, *answers = asyncio.run(ask())
    for found in answers:
        assert [place for place, answer in enumerate(found) if isinstance(answer, NotScorableError)] == [7, 15]
        assert all(answer == alone[place] for place, answer in enumerate(found) if place not in {7, 15})
        assert str(found[7]) == "the model cannot score row 0 of the request: ValueError: 'Input X contains infinity or a v'..."
    assert max(fragile.scored) > 4  # they were merged
    assert caplog.text == ""  # what an estimator says may quote a row


@pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")
@pytest.mark.parametrize("bad_rows", [[], [0, 1, 5, 41, 43, 499]])
@pytest.mark.parametrize("is_fused", [False, True])
def test_the_first_row_that_the_model_cannot_score_is_named(fragile: Graph, bad_rows: list[int], is_fused: bool) -> None:
    rows: list[Any] = [{"a": index / 1000, "b": 0.5} for index in range(500)]
    for row in bad_rows:
        rows[row] = {"a": "bad"}
    for row in (42, 400):
        rows[row] = {"a": 1e38, "b": 0.5}
    preprocessor = Preprocessor(fragile.settings, None) if is_fused else fragile.preprocessor
    with pytest.raises(NotScorableError, match="cannot score row 42 of the request: ValueError") as refused:
        asyncio.run(preprocessor.predict(json.dumps(rows).encode(), report_bad_rows=True))
    assert refused.value.row == 42
    assert len(fragile.scored) < 12


def test_a_model_that_fails_otherwise_fails_as_the_service(graph: Graph, example: dict[str, Any]) -> None:
    def run_out_of_memory(matrix: Array) -> Array:
        raise MemoryError

    graph.score_matrix = run_out_of_memory
    with pytest.raises(ScoringError, match="the classifier failed: MemoryError"):
        graph.predict([json.dumps([example]).encode()])
