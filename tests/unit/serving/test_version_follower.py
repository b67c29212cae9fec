"""How the two deployments change versions; through a real service it is tests/integration/test_release.py."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.graph import VersionedGraph, make_classifier
from support.variants import publish_variant

from serve_app.config import Settings
from serve_app.errors import ComponentsError, ScoringError
from serve_app.serving.preprocessor import Preprocessor
from serve_app.serving.rollout import RolloutDescription


def test_replicas_switch_to_each_version_that_user_config_names_and_back_to_the_base(versions: VersionedGraph) -> None:
    async def steps() -> list[str]:
        seen = [versions.version()]
        for serving in ({"serving": versions.named("two")}, {"serving": versions.named("three")}, {}):
            await versions.reconfigure(**serving)
            seen.append(versions.version())
            assert await versions.preprocessor.is_ready()
        return seen

    assert asyncio.run(steps()) == ["1.0.0", "2.0.0", "3.0.0", "1.0.0"]
    assert versions.three.digest in versions.handle.digests


def test_a_request_ends_with_the_version_that_it_began_with(versions: VersionedGraph, example: dict[str, Any]) -> None:
    body = json.dumps([example]).encode()

    async def steps() -> tuple[Any, Any]:
        await versions.reconfigure(serving=versions.named("two"))
        begun = versions.preprocessor.choose()
        await versions.reconfigure(serving=versions.named("three"), previous=versions.named("two"))
        old = await versions.preprocessor.predict(body, pipeline=begun)
        new = await versions.preprocessor.predict(body)
        return json.loads(b"".join(old)), json.loads(b"".join(new))

    ((old,), (new,)) = asyncio.run(steps())
    assert old["probability_positiveclass"] > 0.4
    assert new["probability_positiveclass"] < 0.3


def test_a_classifier_keeps_the_versions_of_one_rollout_before(
    versions: VersionedGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.serving.classifier._ARRIVAL_TIMEOUT_S", 0.1)
    matrix = b"\0" * 8 * len(versions.two.manifest.features)

    async def steps() -> None:
        await versions.classifier.reconfigure({"serving": versions.named("two")})
        await versions.classifier.reconfigure({"serving": versions.named("three")})
        # preprocessors may still send it
        assert isinstance(await versions.classifier.score(versions.two.digest, matrix), bytes)
        await versions.classifier.reconfigure({"serving": versions.named("three"), "previous": None})
        assert isinstance(await versions.classifier.score(versions.two.digest, matrix), ScoringError)

    asyncio.run(steps())


@pytest.mark.parametrize("damage", ["gone", "other digest", "another classifier"])
def test_a_version_that_cannot_be_used_never_serves_and_says_why(
    versions: VersionedGraph, damage: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("serve_app.serving.classifier._ARRIVAL_TIMEOUT_S", 0.1)
    monkeypatch.setattr("serve_app.serving.matrix_scorers._ARRIVAL_TIMEOUT_S", 0.1)
    bad = versions.named("three")
    if damage == "gone":
        shutil.rmtree(versions.folder / "three")
    elif damage == "other digest":
        bad["digest"] = versions.two.digest[::-1]

    async def steps() -> RolloutDescription:
        await versions.reconfigure(serving=versions.named("two"))
        if damage == "another classifier":  # which never hears of the version
            await versions.preprocessor.reconfigure({"serving": bad})
        else:
            await versions.reconfigure(serving=bad)
        return await versions.preprocessor.describe_rollout()

    said = asyncio.run(steps())
    assert said.serving.version == versions.version() == "2.0.0"
    ((folder, reason),) = [(each.components, each.reason) for each in said.rejected]
    expected = {
        "gone": "cannot be read",
        "other digest": "the settings say",
        "another classifier": "the classifier does not score it",
    }
    assert folder == bad["components"]
    assert expected[damage] in reason
    assert reason in caplog.text


def test_a_replica_that_starts_with_a_version_that_is_gone_uses_the_previous_one(versions: VersionedGraph) -> None:
    shutil.rmtree(versions.folder / "three")
    asyncio.run(versions.reconfigure(serving=versions.named("three"), previous=versions.named("two")))
    assert versions.version() == "2.0.0"


def test_a_fallback_to_another_version_is_reported_until_it_ends(
    versions: VersionedGraph, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("serve_app.serving.retry._FIRST_PAUSE_S", 0)
    away = tmp_path / "away"
    (versions.folder / "three").rename(away)
    gauge: dict[str, float] = {}
    monkeypatch.setattr(
        versions.preprocessor._versions._gauge, "set", lambda value, tags: gauge.__setitem__(tags["role"], value)
    )

    async def report() -> tuple[bool, tuple[str, ...], str, float]:
        await versions.preprocessor.check_health()
        said = await versions.preprocessor.describe_rollout()
        return versions.preprocessor.falls_back, said.unavailable, said.serving.components, gauge["serving"]

    async def steps() -> list[tuple[bool, tuple[str, ...], str, float]]:
        await versions.reconfigure(serving=versions.named("three"), previous=versions.named("two"))
        seen = [await report()]
        away.rename(versions.folder / "three")
        await settle(versions)
        return [*seen, await report()]

    assert asyncio.run(steps()) == [
        (True, ("serving",), str(versions.folder / "two"), 1.0),
        (False, (), str(versions.folder / "three"), 0.0),
    ]


def test_a_version_that_moved_is_used_from_its_new_folder_and_only_if_that_is_sound(
    versions: VersionedGraph, tmp_path: Path
) -> None:
    digest = versions.two.digest
    shutil.copytree(versions.folder / "two", tmp_path / "moved")
    shutil.copytree(versions.folder / "two", tmp_path / "damaged")
    (tmp_path / "damaged" / "model.pkl").write_bytes(b"")

    async def steps() -> tuple[str, list[list[str]]]:
        await versions.reconfigure(serving=versions.named("two", digest=digest))
        replicas = (versions.classifier, versions.preprocessor)
        reasons = [
            [await replica.load(versions.reference(name, digest)) for replica in replicas]
            for name in ("nowhere", "damaged", "moved")
        ]
        await versions.reconfigure(serving=versions.named("moved", digest=digest))
        return (await versions.preprocessor.describe_rollout()).serving.components, reasons

    used, (nowhere, damaged, moved) = asyncio.run(steps())
    assert used == str(tmp_path / "moved")
    assert moved == ["", ""]
    assert all("nowhere/manifest.json: cannot be read" in reason for reason in nowhere)
    assert all("damaged/model.pkl: its SHA-256 is" in reason for reason in damaged)


def test_the_base_that_was_changed_in_place_is_still_there_to_go_back_to(versions: VersionedGraph) -> None:
    settings = Settings(components=str(versions.folder / "three"), components_sha256=versions.three.digest)
    base = versions.reference("three", versions.three.digest)
    replica = Preprocessor(settings, None)
    publish_variant(versions.folder / "three", "3.1.0", shift=-1)  # in place, as train does

    async def steps() -> str:
        await replica.reconfigure({"serving": versions.named("two"), "previous": versions.named("three", digest=base.digest)})
        return await replica.load(base)

    assert asyncio.run(steps()) == ""
    assert not replica.falls_back


async def settle(versions: VersionedGraph) -> None:
    """Asks for both replicas' health, as Ray Serve does, and waits for what they began."""
    for replica in (versions.classifier, versions.preprocessor):
        await replica.check_health()
        if replica._versions._retry._task is not None:
            await replica._versions._retry._task


def test_a_replica_that_starts_without_a_classifier_uses_the_serving_version_once_there_is_one(
    versions: VersionedGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.serving.retry._FIRST_PAUSE_S", 0)

    async def steps() -> list[str]:
        versions.handle.failure = ConnectionError("away")
        await versions.reconfigure(serving=versions.named("three"), previous=versions.named("two"))
        seen = [versions.version()]
        versions.handle.failure = None
        await settle(versions)
        return [
            *seen,
            versions.version(),
            *[each.reason for each in (await versions.preprocessor.describe_rollout()).rejected],
        ]

    assert asyncio.run(steps()) == ["1.0.0", "3.0.0"]


def test_a_missing_folder_is_loaded_once_it_exists(
    versions: VersionedGraph, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("serve_app.serving.retry._FIRST_PAUSE_S", 0)
    away = tmp_path / "away"
    (versions.folder / "two").rename(away)

    async def steps() -> list[str]:
        await versions.reconfigure(serving=versions.named("two"))
        seen = [versions.version()]
        away.rename(versions.folder / "two")
        await settle(versions)
        return [*seen, versions.version()]

    assert asyncio.run(steps()) == ["1.0.0", "2.0.0"]


def test_a_replica_that_finds_its_folder_changed_starts_only_with_a_version_that_is_named(
    versions: VersionedGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.serving.version_follower._START_PAUSE_S", 0)
    settings = Settings(components=str(versions.folder / "three"), components_sha256=versions.three.digest)
    publish_variant(versions.folder / "three", "3.1.0", shift=-1)  # in place, as train does
    named = {"serving": versions.named("two")}

    async def steps() -> str:
        changed = r"three/manifest\.json: its SHA-256 is \w+…, the settings say"
        replicas = (make_classifier(settings), Preprocessor(settings, versions.handle))
        for replica in replicas:
            await replica.reconfigure({})
            with pytest.raises(ComponentsError, match=changed):
                await replica.check_health()
        await versions.classifier.reconfigure(named)
        for replica in replicas:
            await replica.reconfigure(named)
            await replica.check_health()
        return replicas[1].serving.components.manifest.version

    assert asyncio.run(steps()) == "2.0.0"


def test_two_unusable_versions_in_a_row_leave_the_one_that_serves_in_the_classifier(
    versions: VersionedGraph, example: dict[str, Any]
) -> None:
    async def steps() -> list[bytes]:
        await versions.reconfigure(serving=versions.named("two"))
        for nowhere in ("nowhere", "nowhere else"):
            await versions.reconfigure(serving=versions.named(nowhere))
        return await versions.preprocessor.predict(json.dumps([example]).encode())

    (answer,) = json.loads(b"".join(asyncio.run(steps())))
    assert answer["probability_positiveclass"] > 0.4
    assert versions.version() == "2.0.0"


def test_a_version_that_was_refused_is_dropped_and_can_be_loaded_later(versions: VersionedGraph) -> None:
    named = versions.reference("two", versions.two.digest)

    async def steps() -> list[str]:
        assert not await versions.classifier.load(named)
        versions.handle.failure = ConnectionError("away")
        reason = await versions.preprocessor.load(named)
        versions.handle.failure = None
        for replica in (versions.classifier, versions.preprocessor):
            await replica.refuse(named, f"not deployed: {reason}")
        (told,) = (await versions.preprocessor.describe_rollout()).rejected
        assert versions.classifier._models.find(versions.two.digest) is None
        assert versions.preprocessor._versions.models.find(versions.two.digest) is None
        again = [await replica.load(named) for replica in (versions.classifier, versions.preprocessor)]
        assert (await versions.preprocessor.describe_rollout()).rejected == ()
        return [told.reason, *again]

    told, *again = asyncio.run(steps())
    assert told == "not deployed: the classifier does not score it: the classifier failed: ConnectionError"
    assert again == ["", ""]


@pytest.mark.parametrize("user_config", [{"serves": {}}, {"canary": {"components": "x", "share": 2}}, {"serving": "two"}])
def test_a_user_config_that_cannot_be_used_changes_nothing(
    versions: VersionedGraph, user_config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def steps() -> None:
        await versions.reconfigure(serving=versions.named("two"))
        await versions.reconfigure(**user_config)
        assert await versions.preprocessor.is_ready()

    asyncio.run(steps())
    assert versions.version() == "2.0.0"
    assert "user_config cannot be used" in caplog.text


@pytest.mark.parametrize(("share", "expected"), [(0.0, {"1.0.0"}), (1.0, {"2.0.0"}), (0.5, {"1.0.0", "2.0.0"})])
def test_a_canary_is_chosen_for_its_share(versions: VersionedGraph, share: float, expected: set[str]) -> None:
    asyncio.run(versions.reconfigure(canary=versions.named("two", share=share)))
    chosen = {versions.preprocessor.choose().components.manifest.version for _ in range(200)}
    assert chosen == expected
    assert versions.version() == "1.0.0"
