"""Versions within the two deployments, as plain classes in this process; through a real service it is test_release.py's."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import serve
from support.variants import publish_variant

from serve_app.components.compiled import Components
from serve_app.config import Settings
from serve_app.errors import ComponentsError, ScoringError
from serve_app.serving.classifier import Classifier
from serve_app.serving.preprocessor import Preprocessor
from serve_app.serving.versions import Retry


class InProcessHandle:
    """Calls a Classifier as Ray Serve's handle does."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self.asked: list[str] = []
        self.failure: Exception | None = None
        self.score = SimpleNamespace(remote=self._remote)

    def options(self, **_: Any) -> InProcessHandle:
        return self

    async def _remote(self, digest: str, matrix: bytes) -> Any:
        self.asked.append(digest)
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        return await self.classifier.score(digest, matrix)


class Graph:
    """Both deployments, and folders of two more versions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.two = publish_variant(folder / "two", "2.0.0")
        self.three = publish_variant(folder / "three", "3.0.0", shift=-0.5)
        self.classifier = Classifier(Settings())
        self.handle = InProcessHandle(self.classifier)
        self.preprocessor = Preprocessor(Settings(), self.handle)

    def named(self, name: str, **more: Any) -> dict[str, Any]:
        return {"components": str(self.folder / name), **more}

    async def reconfigure(self, **user_config: Any) -> None:
        await asyncio.gather(self.classifier.reconfigure(user_config), self.preprocessor.reconfigure(user_config))

    def version(self) -> str:
        return self.preprocessor.serving.components.manifest.version


_kept: list[Any] = []  # Ray's batch queue opens an event loop when it is deleted outside of one, and never closes it


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Graph:
    context = SimpleNamespace(_deployment_config=SimpleNamespace(max_ongoing_requests=100_000))
    monkeypatch.setattr(serve, "get_replica_context", lambda: context)  # @serve.batch looks at it for a warning
    graph = Graph(tmp_path)
    _kept.append(graph)
    return graph


def test_replicas_switch_to_what_user_config_names_and_back_to_what_it_no_longer_names(graph: Graph) -> None:
    async def steps() -> list[str]:
        seen = [graph.version()]
        for serving in ({"serving": graph.named("two")}, {"serving": graph.named("three")}, {}):
            await graph.reconfigure(**serving)
            seen.append(graph.version())
            assert await graph.preprocessor.is_ready()
        return seen

    assert asyncio.run(steps()) == ["1.0.0", "2.0.0", "3.0.0", "1.0.0"]
    assert graph.three.digest in graph.handle.asked


def test_a_request_ends_with_the_version_that_it_began_with(graph: Graph, example: dict[str, Any]) -> None:
    body = json.dumps([example]).encode()

    async def steps() -> tuple[Any, Any]:
        await graph.reconfigure(serving=graph.named("two"))
        begun = graph.preprocessor.choose()
        await graph.reconfigure(serving=graph.named("three"), previous=graph.named("two"))
        old = await graph.preprocessor.predict(body, pipeline=begun)
        new = await graph.preprocessor.predict(body)
        return json.loads(b"".join(old)), json.loads(b"".join(new))

    ((old,), (new,)) = asyncio.run(steps())
    assert old["probability_positiveclass"] > 0.4
    assert new["probability_positiveclass"] < 0.3


def test_a_matrix_waits_for_its_version_when_it_comes_to_a_classifier_first(graph: Graph) -> None:
    async def steps() -> Any:
        matrix = b"\0" * 8 * len(graph.two.manifest.features)
        early = asyncio.create_task(graph.classifier.score(graph.two.digest, matrix))
        await asyncio.sleep(0.01)
        assert not early.done()
        await graph.classifier.reconfigure({"serving": graph.named("two")})
        return await early

    assert len(asyncio.run(steps())) == 16


def test_matrices_of_two_versions_in_one_batch_are_scored_each_by_its_own(graph: Graph) -> None:
    matrix = b"\0" * 8 * len(graph.two.manifest.features)

    async def steps() -> tuple[list[Any], list[Any]]:
        await graph.reconfigure(serving=graph.named("two"), previous=graph.named("three"))
        digests = [graph.two.digest, graph.three.digest, graph.two.digest]
        alone = [await graph.classifier.score(digest, matrix) for digest in digests]
        return alone, list(await asyncio.gather(*(graph.classifier.score(digest, matrix) for digest in digests)))

    alone, together = asyncio.run(steps())
    assert together == alone
    assert together[0] != together[1]


def test_a_classifier_lets_go_of_what_was_named_before_the_last_change(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.serving.classifier._ARRIVAL_TIMEOUT_S", 0.1)
    matrix = b"\0" * 8 * len(graph.two.manifest.features)

    async def steps() -> None:
        await graph.classifier.reconfigure({"serving": graph.named("two")})
        await graph.classifier.reconfigure({"serving": graph.named("three")})
        # preprocessors may still send it
        assert isinstance(await graph.classifier.score(graph.two.digest, matrix), bytes)
        await graph.classifier.reconfigure({"serving": graph.named("three"), "previous": None})
        assert isinstance(await graph.classifier.score(graph.two.digest, matrix), ScoringError)

    asyncio.run(steps())


@pytest.mark.parametrize("damage", ["gone", "other digest", "another classifier"])
def test_a_version_that_cannot_be_used_never_serves_and_says_why(
    graph: Graph, damage: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("serve_app.serving.classifier._ARRIVAL_TIMEOUT_S", 0.1)
    monkeypatch.setattr("serve_app.serving.matrix_scorers._ARRIVAL_TIMEOUT_S", 0.1)
    bad = graph.named("three")
    if damage == "gone":
        shutil.rmtree(graph.folder / "three")
    elif damage == "other digest":
        bad["digest"] = graph.two.digest[::-1]

    async def steps() -> dict[str, Any]:
        await graph.reconfigure(serving=graph.named("two"))
        if damage == "another classifier":  # which never hears of the version
            await graph.preprocessor.reconfigure({"serving": bad})
        else:
            await graph.reconfigure(serving=bad)
        return await graph.preprocessor.describe_rollout()

    said = asyncio.run(steps())
    assert said["serving"]["version"] == graph.version() == "2.0.0"
    ((folder, reason),) = [(each["components"], each["reason"]) for each in said["rejected"]]
    expected = {
        "gone": "cannot be read",
        "other digest": "the settings say",
        "another classifier": "the classifier does not score it",
    }
    assert folder == bad["components"]
    assert expected[damage] in reason
    assert reason in caplog.text


def test_a_replica_that_starts_with_a_version_that_is_gone_takes_the_previous_one(graph: Graph) -> None:
    shutil.rmtree(graph.folder / "three")
    asyncio.run(graph.reconfigure(serving=graph.named("three"), previous=graph.named("two")))
    assert graph.version() == "2.0.0"


async def settle(graph: Graph) -> None:
    """Asks for both replicas' health, as Ray Serve does, and waits for what they began."""
    for replica in (graph.classifier, graph.preprocessor):
        await replica.check_health()
        if replica._retry._task is not None:
            await replica._retry._task


def test_a_replica_that_starts_while_the_classifier_is_away_takes_the_serving_version_once_it_is_back(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.serving.versions._RETRY_S", 0)

    async def steps() -> list[str]:
        graph.handle.failure = ConnectionError("away")
        await graph.reconfigure(serving=graph.named("three"), previous=graph.named("two"))
        seen = [graph.version()]
        graph.handle.failure = None
        await settle(graph)
        return [*seen, graph.version(), *[each["reason"] for each in (await graph.preprocessor.describe_rollout())["rejected"]]]

    assert asyncio.run(steps()) == ["1.0.0", "3.0.0"]


def test_what_was_not_there_is_loaded_once_it_is(graph: Graph, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("serve_app.serving.versions._RETRY_S", 0)
    away = tmp_path / "away"
    (graph.folder / "two").rename(away)

    async def steps() -> list[str]:
        await graph.reconfigure(serving=graph.named("two"))
        seen = [graph.version()]
        away.rename(graph.folder / "two")
        await settle(graph)
        return [*seen, graph.version()]

    assert asyncio.run(steps()) == ["1.0.0", "2.0.0"]


def test_an_attempt_is_made_ever_more_seldom_and_only_while_something_is_missing(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, attempts = [0.0], [0]
    monkeypatch.setattr("serve_app.serving.versions.perf_counter", lambda: now[0])

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


def test_a_matrix_that_comes_to_a_classifier_without_its_version_is_sent_to_another(
    graph: Graph, example: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.serving.classifier._ARRIVAL_TIMEOUT_S", 0)

    async def steps() -> list[bytes]:
        await graph.reconfigure(serving=graph.named("two"))
        whole, graph.handle.classifier = graph.handle.classifier, Classifier(Settings())  # which has never heard of it
        _kept.append(graph.handle.classifier)
        remote = graph.handle._remote

        async def route(digest: str, matrix: bytes) -> Any:
            answer = await remote(digest, matrix)
            graph.handle.classifier = whole
            return answer

        graph.preprocessor.serving._classifier._score = SimpleNamespace(remote=route)  # type: ignore[attr-defined]
        graph.handle.asked.clear()
        return await graph.preprocessor.predict(json.dumps([example]).encode())

    (answer,) = json.loads(b"".join(asyncio.run(steps())))
    assert answer["probability_positiveclass"] > 0.4
    assert len(graph.handle.asked) == 2


def test_a_replica_that_finds_its_folder_changed_starts_only_with_a_version_that_is_named(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.serving.preprocessor._START_PAUSE_S", 0)
    settings = Settings(components=str(graph.folder / "three"), components_sha256=graph.three.digest)
    publish_variant(graph.folder / "three", "3.1.0", shift=-1)  # in place, as train does
    named = {"serving": graph.named("two")}

    async def steps() -> str:
        changed = r"three/manifest\.json: its SHA-256 is \w+…, the settings say"
        replicas = (Classifier(settings), Preprocessor(settings, graph.handle))
        _kept.extend(replicas)
        for replica in replicas:
            await replica.reconfigure({})
            with pytest.raises(ComponentsError, match=changed):
                await replica.check_health()
        await graph.classifier.reconfigure(named)
        for replica in replicas:
            await replica.reconfigure(named)
            await replica.check_health()
        return replicas[1].serving.components.manifest.version

    assert asyncio.run(steps()) == "2.0.0"


def test_two_unusable_versions_in_a_row_leave_the_one_that_serves_in_the_classifier(
    graph: Graph, example: dict[str, Any]
) -> None:
    async def steps() -> list[bytes]:
        await graph.reconfigure(serving=graph.named("two"))
        for nowhere in ("nowhere", "nowhere else"):
            await graph.reconfigure(serving=graph.named(nowhere))
        return await graph.preprocessor.predict(json.dumps([example]).encode())

    (answer,) = json.loads(b"".join(asyncio.run(steps())))
    assert answer["probability_positiveclass"] > 0.4
    assert graph.version() == "2.0.0"


def test_a_version_that_was_refused_once_can_be_loaded_later_and_is_held_by_nobody_until_then(graph: Graph) -> None:
    named = (str(graph.folder / "two"), graph.two.digest)

    async def steps() -> list[str]:
        assert not await graph.classifier.load(*named)
        graph.handle.failure = ConnectionError("away")
        reason = await graph.preprocessor.load(*named)
        graph.handle.failure = None
        for replica in (graph.classifier, graph.preprocessor):
            await replica.refuse(*named, f"not deployed: {reason}")
        (told,) = (await graph.preprocessor.describe_rollout())["rejected"]
        assert graph.classifier._models.find(graph.two.digest) is None
        assert graph.preprocessor._pipelines.find(graph.two.digest) is None
        again = [await replica.load(*named) for replica in (graph.classifier, graph.preprocessor)]
        assert (await graph.preprocessor.describe_rollout())["rejected"] == []
        return [told["reason"], *again]

    told, *again = asyncio.run(steps())
    assert told == "not deployed: the classifier does not score it: the classifier failed: ConnectionError"
    assert again == ["", ""]


@pytest.mark.parametrize("user_config", [{"serves": {}}, {"canary": {"components": "x", "share": 2}}, {"serving": "two"}])
def test_a_user_config_that_cannot_be_used_changes_nothing(
    graph: Graph, user_config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def steps() -> None:
        await graph.reconfigure(serving=graph.named("two"))
        await graph.reconfigure(**user_config)
        assert await graph.preprocessor.is_ready()

    asyncio.run(steps())
    assert graph.version() == "2.0.0"
    assert "user_config cannot be used" in caplog.text


@pytest.mark.parametrize(("share", "versions"), [(0.0, {"1.0.0"}), (1.0, {"2.0.0"}), (0.5, {"1.0.0", "2.0.0"})])
def test_a_canary_is_chosen_for_its_share(graph: Graph, share: float, versions: set[str]) -> None:
    asyncio.run(graph.reconfigure(canary=graph.named("two", share=share)))
    chosen = {graph.preprocessor.choose().components.manifest.version for _ in range(200)}
    assert chosen == versions
    assert graph.version() == "1.0.0"


def test_a_shadow_counts_disagreements_and_differences(
    graph: Graph, make_rows: Any, components: Components, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_rows(300, 12)
    told: dict[str, list[float]] = {}

    async def steps() -> list[bytes]:
        await graph.reconfigure(shadow=graph.named("two", share=1.0))
        shadow = graph.preprocessor._shadow
        assert shadow is not None
        for name in ("rows", "disagreements"):
            monkeypatch.setattr(
                getattr(shadow, f"_{name}"), "inc", lambda value, name=name, **_: told.setdefault(name, []).append(value)
            )
        monkeypatch.setattr(shadow._difference, "observe", lambda value, **_: told.setdefault("difference", []).append(value))
        answer = await graph.preprocessor.predict(json.dumps(rows).encode())
        await asyncio.gather(*shadow._tasks)
        return answer

    answers = json.loads(b"".join(asyncio.run(steps())))
    probabilities = [answer["probability_positiveclass"] for answer in answers]
    shadowed = [1 / (1 + (1 / p - 1) / 2.718281828459045**0.5) for p in probabilities]
    assert told["rows"] == [300]
    assert told["disagreements"] == [sum((p >= 0.5) != (q >= 0.5) for p, q in zip(probabilities, shadowed, strict=True))]
    assert told["disagreements"][0] > 0
    assert max(told["difference"]) == pytest.approx(max(q - p for p, q in list(zip(probabilities, shadowed, strict=True))[::3]))


def test_a_shadow_keeps_few_bytes_and_gives_up_in_time(
    graph: Graph, example: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    body = json.dumps([example]).encode()
    monkeypatch.setattr("serve_app.serving.shadow._MOST_BYTES", 2 * len(body))
    skipped: list[str] = []

    async def never(*_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()

    async def steps() -> None:
        await graph.reconfigure(shadow=graph.named("two", share=1.0))
        shadow = graph.preprocessor._shadow
        assert shadow is not None
        await graph.reconfigure(shadow=graph.named("two", share=0.5), previous=graph.named("three"))
        assert graph.preprocessor._shadow is shadow  # what it holds counts on
        assert shadow.share == 0.5
        shadow.share = 1.0
        monkeypatch.setattr(shadow._skipped, "inc", lambda tags: skipped.append(tags["reason"]))
        monkeypatch.setattr(shadow.pipeline, "score", never)
        shadow._timeout_s = 0.05
        for _ in range(5):
            await graph.preprocessor.predict(body)
        assert skipped == ["busy"] * 3
        assert shadow._held_bytes == 2 * len(body)
        await asyncio.gather(*shadow._tasks)
        assert skipped == ["busy"] * 3 + ["failed"] * 2
        assert shadow._held_bytes == 0

    asyncio.run(steps())


def test_a_shadow_that_fails_or_refuses_costs_the_client_nothing(
    graph: Graph, example: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    skipped: list[str] = []

    async def steps() -> Any:
        await graph.reconfigure(shadow=graph.named("two", share=1.0))
        shadow = graph.preprocessor._shadow
        assert shadow is not None
        monkeypatch.setattr(shadow._skipped, "inc", lambda tags: skipped.append(tags["reason"]))
        for error in (ScoringError("lost"), KeyError("unforeseen")):

            async def fail(*_: Any, error: Exception = error, **__: Any) -> Any:
                raise error

            monkeypatch.setattr(shadow.pipeline, "score", fail)
            answer = await graph.preprocessor.predict(json.dumps([example]).encode())
            await asyncio.gather(*shadow._tasks)
        return json.loads(b"".join(answer))

    assert asyncio.run(steps())[0]["probability_positiveclass"] == 0.36208864382410294
    assert skipped == ["failed", "failed"]
