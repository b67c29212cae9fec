"""The two deployments of the graph: what a Preprocessor and a Classifier replica hold, and which version they score with.

Owns the change of versions within a replica, without a restart and without a request that sees two of them: a Classifier holds
each version that a Preprocessor may still send, and finds it by the digest that comes with each matrix; a Preprocessor switches
once its new version has been seen to work through a Classifier, and a request stays with the pipeline that it began with. Plain
classes: app.py wraps them as deployments. Knows no HTTP; api.py calls them.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any

from ray.exceptions import RayError

from serve_app.config import Settings
from serve_app.errors import ComponentsError, NotScorableError, ScoringError
from serve_app.scoring.arrays import Array
from serve_app.serving.autoscaling import BODY_BYTES
from serve_app.serving.drift_window import WindowDrift
from serve_app.serving.loopback import keep_calls_on_loopback
from serve_app.serving.pipeline import Pipeline
from serve_app.serving.shadow import Shadow
from serve_app.serving.versions import ModelReference, ModelStore, Retry, Rollout, load_or_reject, read_or_keep

__all__ = ["Array", "Preprocessor"]

_logger = logging.getLogger("ray.serve")  # the logger whose records Ray Serve keeps with the replica's
_TRY_TIMEOUT_S = 30.0  # how long a version may take to work through a Classifier
_START_PAUSE_S = 10.0  # before a replica that has nothing to score with gives up: Ray Serve starts the next one at once


class Preprocessor:
    """The ingress: holds a pipeline for each version of the model, and says which of them a request takes.

    Args:
        settings: of the whole application.
        classifier: the handle of the Classifier deployment, or None in the fused topology, where this replica scores.
    """

    def __init__(self, settings: Settings, classifier: Any | None) -> None:
        keep_calls_on_loopback()
        self.settings = settings
        self._body_bytes = 0
        self._pipelines = ModelStore(settings, lambda loaded: Pipeline(settings, loaded, classifier))
        self._serving = next(iter(self._pipelines.held()), None)  # the base, if it can be used
        self._rollout: Rollout | None = None
        self._canary: Pipeline | None = None
        self._canary_share = 0.0
        self._shadow: Shadow | None = None
        self._lock = asyncio.Lock()
        self._retry = Retry()
        self._is_complete = True  # whether all that the rollout names is in use

    def choose(self) -> Pipeline:
        """The pipeline for one request, which stays with it to its end."""
        if self._canary is not None and random.random() < self._canary_share:  # noqa: S311 - a sample, no secret
            return self._canary
        return self.serving

    @property
    def serving(self) -> Pipeline:
        """The pipeline of the version that serves.

        Raises:
            ComponentsError: there is none, for this replica starts and can use nothing; it does not become ready.
        """
        return self._pipelines.base if self._serving is None else self._serving

    async def predict(
        self,
        body: bytes | bytearray,
        *,
        report_bad_rows: bool = False,
        explain: bool = False,
        pipeline: Pipeline | None = None,
    ) -> list[bytes]:
        """The JSON array of answers, in pieces, to a request's body; in the order of its rows.

        Args:
            body: a JSON array of row objects, or one row object.
            report_bad_rows: put an error object in a bad row's place instead of refusing the request.
            explain: say of each row why.
            pipeline: the one that ``choose`` has chosen.

        Raises:
            RequestError: the request, or a row of it, cannot be scored; nothing of it was.
            ScoringError: the classifier failed.
        """
        pipeline = pipeline or self.choose()
        max_rows = self.settings.limits.max_explained_rows if explain else None
        body_bytes = len(body)
        self._body_bytes += body_bytes
        try:
            scored = await pipeline.score(body, report_bad_rows=report_bad_rows, max_rows=max_rows)
            if self._shadow is not None:
                self._shadow.offer(body, pipeline, scored)
            return await pipeline.encode(scored, explain=explain)
        finally:
            self._body_bytes -= body_bytes

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What scaling.py goes by, beside the queue; Ray Serve asks twice a second."""
        return {BODY_BYTES: self._body_bytes}

    async def drift(self) -> WindowDrift | None:
        """How far the rows have moved from those that trained the model; None where its manifest does not tell of them.

        Raises:
            ScoringError: what all replicas have counted could not be asked for.
        """
        watch = self.serving.metrics.drift
        if watch is None:
            return None
        try:
            return await watch.report()
        except RayError as error:
            _logger.warning("drift cannot be told: %s", error)
            raise ScoringError("what the replicas have counted could not be asked for") from error

    async def is_ready(self) -> bool:
        """Whether the golden rows of the version that serves, sent through both deployments, get their probabilities."""
        try:
            async with asyncio.timeout(self.settings.limits.ready_timeout_s):
                return await self.serving.scores_golden_rows()
        except (TimeoutError, NotScorableError, ScoringError) as error:
            _logger.warning("not ready: %s", str(error) or "the round trip takes too long")
            return False

    async def reconfigure(self, user_config: dict[str, Any] | None) -> None:
        """Switches to what ``user_config`` names; Ray Serve calls it when the replica starts, and at each change.

        A version that cannot be used never serves: a replica that serves goes on with its own, one that starts takes the
        previous one. Nothing is raised, for Ray Serve would end the replica. It is tried again later, for the reason may pass:
        a classifier that could not be reached, a folder that was not there yet.
        """
        rollout = read_or_keep(user_config)
        if rollout is None:
            return
        async with self._lock:
            is_first, self._rollout = self._rollout is None, rollout
            self._retry.reset()
            await self._follow(rollout, is_first=is_first)

    async def _follow(self, rollout: Rollout, *, is_first: bool = False) -> None:
        serving = await self._try(rollout.serving)
        self._is_complete = serving is not None
        if serving is None and is_first and rollout.previous is not None:
            serving = await self._try(rollout.previous)
        canary = None if rollout.canary is None else await self._try(rollout.canary)
        shadow = None if rollout.shadow is None else await self._try(rollout.shadow)
        if rollout.previous is not None:
            self._is_complete &= not await load_or_reject(self._pipelines, rollout.previous)
        self._is_complete &= (canary is None) == (rollout.canary is None) and (shadow is None) == (rollout.shadow is None)
        if serving is not None:
            self._serving = serving
        self._canary, self._canary_share = canary, rollout.canary.share if rollout.canary is not None else 0.0
        self._shadow = self._shadow_of(shadow, 0.0 if rollout.shadow is None else rollout.shadow.share)
        self._pipelines.keep_only(rollout.references())

    def _shadow_of(self, pipeline: Pipeline | None, share: float) -> Shadow | None:
        if pipeline is None:
            return None
        if self._shadow is not None and self._shadow.pipeline is pipeline:  # with what it is about to compare
            self._shadow.share = share
            return self._shadow
        return Shadow(pipeline, share, self.settings.limits)

    async def _follow_again(self) -> None:
        async with self._lock:
            if self._rollout is not None:
                await self._follow(self._rollout)

    async def load(self, components: str, digest: str | None) -> str:
        """Loads a version beside the others and tries it; empty, or why it cannot be used. For ``handle.broadcast``."""
        reference = ModelReference(components=components, digest=digest)
        if await self._try(reference) is not None:
            return ""
        return self._pipelines.rejected.get(reference, "it cannot be used")

    async def refuse(self, components: str, digest: str | None, reason: str) -> None:
        """Lets go of a version that a replica cannot use, and tells why from now on. For ``handle.broadcast``."""
        async with self._lock:
            self._pipelines.reject(ModelReference(components=components, digest=digest), reason)
            self._pipelines.keep_only((self._rollout or Rollout()).references())

    async def describe_rollout(self) -> dict[str, Any]:
        """Which versions this replica uses for what, and what it refused, as JSON values."""
        rollout = self._rollout or Rollout()
        return {
            "serving": _describe(self.serving),
            "previous": _describe(self._pipelines.named(rollout.previous)),
            "canary": _describe(self._canary, share=self._canary_share),
            "shadow": self._shadow and _describe(self._shadow.pipeline, share=self._shadow.share),
            "rejected": [
                {"components": reference.components, "digest": reference.digest, "reason": reason}
                for reference, reason in self._pipelines.rejected.items()
            ],
        }

    async def check_health(self) -> None:
        """Healthy as long as it has a version to answer with; Ray Serve calls it now and then.

        What could not be used is tried again.

        Raises:
            ComponentsError: this replica starts, and can use neither what is named nor the base; Ray Serve starts another.
        """
        if self._serving is None:
            await asyncio.sleep(_START_PAUSE_S)
        self.serving.metrics.tell_serving()
        if not self._is_complete:
            self._retry.maybe(self._follow_again)

    async def _try(self, reference: ModelReference | None) -> Pipeline | None:
        """The pipeline of a version that has been loaded and seen to work, or None."""
        try:
            pipeline = await self._pipelines.load(reference)
        except ComponentsError:
            return None
        if reference is None or pipeline is self._serving:
            self._pipelines.accept(reference)
            return pipeline
        try:
            async with asyncio.timeout(_TRY_TIMEOUT_S):
                is_right = await pipeline.scores_golden_rows()
            reason = "its golden rows come back from the classifier with other probabilities"
        except (TimeoutError, NotScorableError, ScoringError) as error:
            is_right, reason = False, f"the classifier does not score it: {str(error) or 'it takes too long'}"
        if not is_right:
            self._pipelines.reject(reference, reason)
            return None
        self._pipelines.accept(reference)
        return pipeline


def _describe(pipeline: Pipeline | None, **more: float) -> dict[str, Any] | None:
    if pipeline is None:
        return None
    manifest = pipeline.components.manifest
    return {"name": manifest.name, "version": manifest.version, "digest": pipeline.components.digest, **more}
