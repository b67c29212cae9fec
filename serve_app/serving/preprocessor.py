"""The Preprocessor deployment: answers prediction requests, and reports readiness, drift and roll-out.

Owns one request from its bytes to its answers, which it passes through the pipeline of one version from start to end. Knows no
HTTP: api calls it. Which version answers is version_follower.py's task. A plain class: app.py makes it a deployment.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ray.exceptions import RayError

from serve_app.config import Settings
from serve_app.errors import NotScorableError, ScoringError
from serve_app.serving.autoscaling import BODY_BYTES
from serve_app.serving.client_schema import ClientSchema, client_schema
from serve_app.serving.drift_window import WindowDrift
from serve_app.serving.loopback import keep_calls_on_loopback
from serve_app.serving.model_store import ModelStore
from serve_app.serving.pipeline import Pipeline
from serve_app.serving.replica_log import logger
from serve_app.serving.rollout import ModelReference, RolloutDescription
from serve_app.serving.version_follower import PipelineFollower

__all__ = ["Preprocessor"]


class Preprocessor:
    """Answers requests with a pipeline for each version of the model.

    Args:
        settings: settings of the application.
        classifier: handle of the Classifier deployment; None in the fused topology, where this replica scores.
    """

    def __init__(self, settings: Settings, classifier: Any | None) -> None:
        keep_calls_on_loopback()
        self.settings = settings
        self._body_bytes = 0
        pipelines = ModelStore(settings, lambda loaded: Pipeline(settings, loaded, classifier))
        self._versions = PipelineFollower(pipelines, settings.limits)

    def choose(self) -> Pipeline:
        """The pipeline for one request, which uses it to its end."""
        return self._versions.choose()

    @property
    def serving(self) -> Pipeline:
        """The pipeline of the version that answers.

        Raises:
            ComponentsError: the replica starts and can use no version; it does not become ready.
        """
        return self._versions.serving

    async def predict(
        self,
        body: bytes | bytearray,
        *,
        report_bad_rows: bool = False,
        explain: bool = False,
        pipeline: Pipeline | None = None,
    ) -> list[bytes]:
        """Answers a request: a JSON array of answers, in pieces, in the order of the rows.

        Args:
            body: a JSON array of row objects, or one row object.
            report_bad_rows: answer a bad row with an error object instead of refusing the request.
            explain: add the reasons to each answer.
            pipeline: the result of ``choose``; None chooses one.

        Raises:
            RequestError: the request, or a row of it, cannot be scored; no row was.
            ScoringError: the classifier failed.
        """
        pipeline = pipeline or self.choose()
        max_rows = self.settings.limits.max_explained_rows if explain else None
        body_bytes = len(body)
        self._body_bytes += body_bytes
        try:
            scored = await pipeline.score(body, report_bad_rows=report_bad_rows, max_rows=max_rows)
            shadow = self._versions.shadow
            if shadow is not None:
                shadow.offer(body, pipeline, scored)
            return await pipeline.encode(scored, explain=explain)
        finally:
            self._body_bytes -= body_bytes

    def record_autoscaling_stats(self) -> dict[str, float]:
        """The figures that autoscaling.py uses besides the queue. Ray Serve calls it twice a second."""
        return {BODY_BYTES: self._body_bytes}

    async def drift(self) -> WindowDrift | None:
        """How far the scored rows have moved from the training rows; None if the manifest does not describe those.

        Raises:
            ScoringError: the counts of the other replicas could not be read.
        """
        window = self.serving.metrics.drift
        if window is None:
            return None
        try:
            return await window.report()
        except RayError as error:
            logger.warning("drift cannot be reported: %s", error)
            raise ScoringError("the counts of the other replicas could not be read") from error

    async def is_ready(self) -> bool:
        """Whether the serving version's golden rows get their recorded probabilities through both deployments."""
        try:
            async with asyncio.timeout(self.settings.limits.ready_timeout_s):
                return await self.serving.scores_golden_rows()
        except (TimeoutError, NotScorableError, ScoringError) as error:
            logger.warning("not ready: %s", str(error) or "the round trip takes too long")
            return False

    @property
    def falls_back(self) -> bool:
        """Whether the replica cannot use the version that should serve, and answers with another."""
        return "serving" in self._versions.unavailable()

    async def describe_rollout(self) -> RolloutDescription:
        """Which versions this replica uses for what, and what it rejected."""
        return self._versions.describe()

    async def describe_schema(self) -> ClientSchema:
        """What clients of the serving version send and receive. Called by ``handle.broadcast``."""
        return client_schema(self.serving.components.manifest)

    async def reconfigure(self, user_config: dict[str, Any] | None) -> None:
        """Switches to the versions that ``user_config`` names. Ray Serve calls it at the start and after each change."""
        await self._versions.follow(user_config)

    async def load(self, reference: ModelReference) -> str:
        """Loads and tries a version next to those in use; empty on success, otherwise the reason. For ``handle.broadcast``."""
        return await self._versions.load(reference)

    async def refuse(self, reference: ModelReference, reason: str) -> None:
        """Lets go of a version that another replica cannot use, and records why. Called by ``handle.broadcast``."""
        await self._versions.refuse(reference, reason)

    async def check_health(self) -> None:
        """Ray Serve's health check: healthy as long as there is a version to answer with. What failed is retried.

        Raises:
            ComponentsError: the replica can use neither what is named nor the base version; Ray Serve starts another.
        """
        await self._versions.check()
        self.serving.metrics.gauges.tell_serving()
