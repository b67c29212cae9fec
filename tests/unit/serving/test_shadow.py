"""Comparing a version on trial, at no cost to the client."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from support.graph import VersionedGraph

from serve_app.components.compiled import Components
from serve_app.errors import ScoringError


def test_a_shadow_counts_disagreements_and_differences(
    versions: VersionedGraph, make_rows: Any, components: Components, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_rows(300, 12)
    told: dict[str, list[float]] = {}

    async def steps() -> list[bytes]:
        await versions.reconfigure(shadow=versions.named("two", share=1.0))
        shadow = versions.preprocessor._versions.shadow
        assert shadow is not None
        for name in ("rows", "disagreements"):
            monkeypatch.setattr(
                getattr(shadow, f"_{name}"), "inc", lambda value, name=name, **_: told.setdefault(name, []).append(value)
            )
        monkeypatch.setattr(shadow._difference, "observe", lambda value, **_: told.setdefault("difference", []).append(value))
        answer = await versions.preprocessor.predict(json.dumps(rows).encode())
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
    versions: VersionedGraph, example: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    body = json.dumps([example]).encode()
    monkeypatch.setattr("serve_app.serving.shadow._MAX_HELD_BYTES", 2 * len(body))
    skipped: list[str] = []

    async def never(*_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()

    async def steps() -> None:
        await versions.reconfigure(shadow=versions.named("two", share=1.0))
        shadow = versions.preprocessor._versions.shadow
        assert shadow is not None
        await versions.reconfigure(shadow=versions.named("two", share=0.5), previous=versions.named("three"))
        assert versions.preprocessor._versions.shadow is shadow  # what it holds counts on
        assert shadow.share == 0.5
        shadow.share = 1.0
        monkeypatch.setattr(shadow._skipped, "inc", lambda tags: skipped.append(tags["reason"]))
        monkeypatch.setattr(shadow.pipeline, "score", never)
        shadow._timeout_s = 0.05
        for _ in range(5):
            await versions.preprocessor.predict(body)
        assert skipped == ["busy"] * 3
        assert shadow._held_bytes == 2 * len(body)
        await asyncio.gather(*shadow._tasks)
        assert skipped == ["busy"] * 3 + ["failed"] * 2
        assert shadow._held_bytes == 0

    asyncio.run(steps())


def test_a_shadow_that_fails_or_refuses_costs_the_client_nothing(
    versions: VersionedGraph, example: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    skipped: list[str] = []

    async def steps() -> Any:
        await versions.reconfigure(shadow=versions.named("two", share=1.0))
        shadow = versions.preprocessor._versions.shadow
        assert shadow is not None
        monkeypatch.setattr(shadow._skipped, "inc", lambda tags: skipped.append(tags["reason"]))
        for error in (ScoringError("lost"), KeyError("unforeseen")):

            async def fail(*_: Any, error: Exception = error, **__: Any) -> Any:
                raise error

            monkeypatch.setattr(shadow.pipeline, "score", fail)
            answer = await versions.preprocessor.predict(json.dumps([example]).encode())
            await asyncio.gather(*shadow._tasks)
        return json.loads(b"".join(answer))

    assert asyncio.run(steps())[0]["probability_positiveclass"] == 0.36208864382410294
    assert skipped == ["failed", "failed"]
