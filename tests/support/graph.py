"""Both deployments in this process, as plain classes, without a Ray cluster."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import serve

from serve_app.components.compiled import Components
from serve_app.config import Settings
from serve_app.scoring.arrays import Array
from serve_app.serving.classifier import Classifier
from serve_app.serving.matrix_scorers import CountedModel
from serve_app.serving.preprocessor import Preprocessor
from serve_app.serving.rollout import ModelReference

__all__ = ["Graph", "InProcessHandle", "VersionedGraph", "fake_replica_context", "make_classifier"]

# Ray's batch queue opens an event loop when it is deleted outside of one, and never closes it: so nothing is deleted.
_kept: list[Classifier] = []


def make_classifier(settings: Settings) -> Classifier:
    """A Classifier outside of Ray; needs ``fake_replica_context``."""
    _kept.append(Classifier(settings))
    return _kept[-1]


def fake_replica_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives ``@serve.batch`` the one figure that it reads outside of a replica, for a warning."""
    context = SimpleNamespace(_deployment_config=SimpleNamespace(max_ongoing_requests=100_000))
    monkeypatch.setattr(serve, "get_replica_context", lambda: context)


class InProcessHandle:
    """Calls a Classifier as Ray Serve's handle does, and records each call's digest and rows."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self.digests: list[str] = []
        self.hops: list[int] = []
        self.failure: Exception | None = None
        self.score = SimpleNamespace(remote=self.call)

    def options(self, **_: Any) -> InProcessHandle:
        return self

    async def call(self, digest: str, matrix: bytes) -> Any:
        self.digests.append(digest)
        await asyncio.sleep(0.002)  # as long as a remote call, during which other requests gather
        if self.failure is not None:
            raise self.failure
        model = self.classifier._models.find(digest)
        if model is not None:
            self.hops.append(len(matrix) // (8 * len(model.components.manifest.features)))
        return await self.classifier.score(digest, matrix)


class Graph:
    """A Preprocessor and a Classifier, with the rows of each remote call (``hops``) and of each batch of the model."""

    def __init__(self, settings: Settings = Settings()) -> None:  # noqa: B008 - it never changes
        self.settings = settings
        self.classifier = make_classifier(settings)
        self.handle = InProcessHandle(self.classifier)
        self.preprocessor = Preprocessor(settings, self.handle)
        self.scored: list[int] = []
        self.model: CountedModel = self.classifier._models.base
        self.score_matrix, self.model.score = self.model.score, self._count  # type: ignore[method-assign]

    @property
    def hops(self) -> list[int]:
        return self.handle.hops

    def predict(self, bodies: list[bytes]) -> list[Any]:
        """The answers to concurrent requests."""

        async def predict_all() -> list[Any]:
            pieces = await asyncio.gather(*map(self.preprocessor.predict, bodies))
            return [json.loads(b"".join(answer)) for answer in pieces]

        return asyncio.run(predict_all())

    def _count(self, matrix: Array) -> Array:
        self.scored.append(len(matrix))
        return self.score_matrix(matrix)


class VersionedGraph(Graph):
    """The same with folders of two more versions, ``two`` and ``three``."""

    def __init__(self, folder: Path, variants: dict[str, Components], variants_folder: Path) -> None:
        super().__init__()
        self.folder = folder
        shutil.copytree(variants_folder, folder, dirs_exist_ok=True)
        self.two, self.three = variants["two"], variants["three"]

    def named(self, name: str, **more: Any) -> dict[str, Any]:
        """How ``user_config`` names a version."""
        return {"components": str(self.folder / name), **more}

    def reference(self, name: str, digest: str | None = None) -> ModelReference:
        return ModelReference(components=str(self.folder / name), digest=digest)

    async def reconfigure(self, **user_config: Any) -> None:
        await asyncio.gather(self.classifier.reconfigure(user_config), self.preprocessor.reconfigure(user_config))

    def version(self) -> str:
        """The version that serves."""
        return self.preprocessor.serving.components.manifest.version
