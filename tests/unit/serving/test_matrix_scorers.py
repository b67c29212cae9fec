"""The remote call between the two deployments."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from support.graph import VersionedGraph, make_classifier

from serve_app.config import Settings


def test_a_matrix_that_comes_to_a_classifier_without_its_version_is_sent_to_another(
    versions: VersionedGraph, example: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.serving.classifier._ARRIVAL_TIMEOUT_S", 0)

    async def steps() -> list[bytes]:
        await versions.reconfigure(serving=versions.named("two"))
        whole = versions.handle.classifier
        versions.handle.classifier = make_classifier(Settings())  # which does not hold the version
        remote = versions.handle.call

        async def route(digest: str, matrix: bytes) -> Any:
            answer = await remote(digest, matrix)
            versions.handle.classifier = whole
            return answer

        versions.preprocessor.serving._classifier._score = SimpleNamespace(remote=route)  # type: ignore[attr-defined]
        versions.handle.digests.clear()
        return await versions.preprocessor.predict(json.dumps([example]).encode())

    (answer,) = json.loads(b"".join(asyncio.run(steps())))
    assert answer["probability_positiveclass"] > 0.4
    assert len(versions.handle.digests) == 2
