"""What this room needs of the deployment that it gives an HTTP interface; serving.preprocessor.Preprocessor implements it."""

from __future__ import annotations

from typing import Protocol

from serve_app.config import Settings
from serve_app.serving.drift_window import WindowDrift
from serve_app.serving.pipeline import Pipeline
from serve_app.serving.rollout import RolloutDescription

__all__ = ["Service"]


class Service(Protocol):
    """Scores the rows of requests, and reports on itself."""

    settings: Settings

    @property
    def serving(self) -> Pipeline:
        """The pipeline of the model version that serves."""
        ...

    def choose(self) -> Pipeline:
        """The pipeline for one request."""
        ...

    async def predict(
        self, body: bytes | bytearray, *, report_bad_rows: bool, explain: bool, pipeline: Pipeline
    ) -> list[bytes]:
        """The JSON of the answers, in pieces."""
        ...

    async def describe_rollout(self) -> RolloutDescription:
        """Which model versions are in use, and for what."""
        ...

    @property
    def falls_back(self) -> bool:
        """Whether another model version answers than the one that should serve, which cannot be used."""
        ...

    async def drift(self) -> WindowDrift | None:
        """How far recent rows have moved from the training rows; None if the manifest does not describe those."""
        ...

    async def is_ready(self) -> bool:
        """Whether golden rows, sent through the whole graph, get their recorded answers."""
        ...
