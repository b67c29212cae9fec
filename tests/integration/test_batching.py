"""How work is merged, counted instead of timed: both deployments in one process, without a cluster."""

from __future__ import annotations

import asyncio
import itertools
import json
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import joblib
import numpy as np
import pytest
from numpy.typing import NDArray
from ray import serve
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from support.own_tables import write_csv
from support.scoring import score

from serve_app.components.compiled import Components
from serve_app.components.saving import save_components
from serve_app.config import Settings
from serve_app.errors import NotScorableError, ScoringError
from serve_app.serving.classifier import Classifier
from serve_app.serving.preprocessor import Preprocessor
from serve_app.training.import_estimator import import_estimator

Array = NDArray[np.float64]


class InProcessHandle:
    """Calls a Classifier as Ray Serve's handle does, and counts: rows of each call, rows of each scored batch."""

    def __init__(self, settings: Settings) -> None:
        self.hops: list[int] = []
        self.scored: list[int] = []
        self.failure: Exception | None = None
        self._classifier = Classifier(settings)
        self._model = self._classifier._models.base
        self._score_matrix, self._model.score = self._model.score, self._count  # type: ignore[method-assign]
        self.score = SimpleNamespace(remote=self._remote)

    def options(self, **_: Any) -> InProcessHandle:
        return self

    async def _remote(self, digest: str, matrix: bytes) -> Any:
        await asyncio.sleep(0.002)  # a hop takes its time: that is what requests wait for together
        if self.failure is not None:
            raise self.failure
        self.hops.append(len(matrix) // (8 * len(self._model.components.manifest.features)))
        return await self._classifier.score(digest, matrix)

    def _count(self, matrix: Array) -> Array:
        self.scored.append(len(matrix))
        return self._score_matrix(matrix)


class Graph:
    """The split graph, with what went through the hop and what was scored at once."""

    def __init__(self, settings: Settings = Settings()) -> None:  # noqa: B008 - it never changes
        self.settings = settings
        self.handle = InProcessHandle(self.settings)
        self.preprocessor = Preprocessor(self.settings, self.handle)

    @property
    def hops(self) -> list[int]:
        return self.handle.hops

    def predict(self, bodies: list[bytes]) -> list[Any]:
        """The answers to concurrent requests."""

        async def predict_all() -> list[Any]:
            pieces = await asyncio.gather(*map(self.preprocessor.predict, bodies))
            return [json.loads(b"".join(answer)) for answer in pieces]

        return asyncio.run(predict_all())


_kept: list[Graph] = []  # Ray's batch queue opens an event loop when it is deleted outside of one, and never closes it


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch) -> Graph:
    return _graph(monkeypatch, Settings())


@pytest.fixture
def fragile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Graph:
    """A model whose estimator raises at numbers that are in order by themselves: their tenth power is none."""
    random = np.random.default_rng(5)
    matrix = random.normal(size=(200, 2))
    classes = (matrix[:, 0] > matrix[:, 1]).astype(int)
    estimator = make_pipeline(PolynomialFeatures(10), StandardScaler(), LogisticRegression(max_iter=10_000)).fit(
        matrix, classes
    )
    joblib.dump(estimator, tmp_path / "fragile.pkl")
    table = {name: [repr(float(cell)) for cell in matrix[:, index]] for index, name in enumerate("ab")}
    sample = write_csv(tmp_path / "sample.csv", table)
    save_components(tmp_path / "fragile", import_estimator(tmp_path / "fragile.pkl", sample, target="y"))
    return _graph(monkeypatch, Settings(components=str(tmp_path / "fragile")))


def _graph(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Graph:
    context = SimpleNamespace(_deployment_config=SimpleNamespace(max_ongoing_requests=100_000))
    monkeypatch.setattr(serve, "get_replica_context", lambda: context)  # @serve.batch looks at it for a warning
    _kept.append(Graph(settings))
    return _kept[-1]


def test_concurrent_requests_share_hops(graph: Graph, example: dict[str, Any]) -> None:
    answers = graph.predict([json.dumps([example]).encode()] * 64)
    assert all(answer == answers[0] for answer in answers)
    assert sum(graph.hops) == 64
    assert len(graph.hops) <= 4


def test_a_lone_request_waits_for_nobody(graph: Graph, example: dict[str, Any]) -> None:
    graph.predict([json.dumps([example]).encode()])
    assert graph.hops == graph.handle.scored == [1]


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
        assert str(found[7]) == "the model cannot score a row of the request: ValueError: 'Input X contains infinity or a v'..."
    assert max(fragile.handle.scored) > 4  # they were merged
    assert caplog.text == ""  # what an estimator says may quote a row


@pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")
def test_a_matrix_that_the_model_cannot_take_fails_alone_in_a_batch_of_the_classifier(fragile: Graph) -> None:
    good, bad = np.array([[0.5, 0.25]]), np.array([[1e38, 0.25]])
    digest = fragile.preprocessor.serving.components.digest

    async def ask() -> list[Any]:
        score = fragile.handle._classifier.score
        return await asyncio.gather(*(score(digest, matrix.tobytes()) for matrix in (good, bad, good)))

    first, refused, last = asyncio.run(ask())
    assert isinstance(refused, NotScorableError)
    assert first == last
    assert np.frombuffer(first).sum() == pytest.approx(1)
    assert 3 in fragile.handle.scored


def test_a_model_that_fails_otherwise_fails_as_the_service(graph: Graph, example: dict[str, Any]) -> None:
    def run_out_of_memory(matrix: Array) -> Array:
        raise MemoryError

    graph.handle._score_matrix = run_out_of_memory
    with pytest.raises(ScoringError, match="the classifier failed: MemoryError"):
        graph.predict([json.dumps([example]).encode()])


def test_the_fused_topology_answers_the_same_without_a_hop(graph: Graph, make_rows: Any) -> None:
    body = json.dumps(make_rows(5000, 4)).encode()
    fused = Preprocessor(graph.settings, None)
    assert asyncio.run(fused.predict(body)) == asyncio.run(graph.preprocessor.predict(body))
    assert len(graph.hops) == 2


def test_other_components_in_the_classifier_are_noticed(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.serving.classifier._ARRIVAL_TIMEOUT_S", 0.1)
    answer = asyncio.run(graph.handle._classifier.score("another digest", b""))
    assert isinstance(answer, ScoringError)
    assert "different model components" in str(answer)


def test_readiness_is_a_round_trip_with_the_right_answers(graph: Graph) -> None:
    async def readiness() -> list[bool]:
        found = [await graph.preprocessor.is_ready()]
        graph.handle.failure = ConnectionError("lost")
        found.append(await graph.preprocessor.is_ready())
        graph.handle.failure = None
        graph.preprocessor.serving._golden_probabilities += 1e-9
        return [*found, await graph.preprocessor.is_ready()]

    assert asyncio.run(readiness()) == [True, False, False]


def test_a_dead_batching_task_makes_a_replica_unhealthy(graph: Graph, example: dict[str, Any]) -> None:
    async def kill_and_ask() -> None:
        await graph.preprocessor.predict(json.dumps([example]).encode())
        await graph.handle._classifier.check_health()
        for task in asyncio.all_tasks():
            if "_process_batches" in repr(task):
                task.cancel()
        await asyncio.sleep(0.01)
        await graph.handle._classifier.check_health()

    with pytest.raises(RuntimeError, match="batching task has ended"):
        asyncio.run(kill_and_ask())


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
