"""The two deployments of the graph: what a Preprocessor and a Classifier replica hold, and which version they score with.

Owns the change of versions within a replica, without a restart and without a request that sees two of them: a Classifier holds
each version that a Preprocessor may still send, and finds it by the digest that comes with each matrix; a Preprocessor switches
once its new version has been seen to work through a Classifier, and a request stays with the pipeline that it began with. Plain
classes: app.py wraps them as deployments. Knows no HTTP; api.py calls them.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray import serve
from ray.exceptions import RayError

from serve_app.admission import Admission
from serve_app.batching import concatenate, count_rows, split
from serve_app.config import Settings
from serve_app.errors import ComponentsError, ScoringError, SettingsError
from serve_app.loopback import keep_calls_on_loopback
from serve_app.metrics import ReplicaMetrics
from serve_app.pipeline import CountedModel, Pipeline
from serve_app.rollout import ModelReference, ModelStore, Rollout, read_rollout
from serve_app.scaling import BODY_BYTES
from serve_app.shadow import Shadow

__all__ = ["Classifier", "Preprocessor"]

Array = NDArray[np.float64]

_logger = logging.getLogger("ray.serve")  # the logger whose records Ray Serve keeps with the replica's
_ARRIVAL_TIMEOUT_S = 10.0  # how long a matrix waits for its version, which other replicas may have got sooner
_TRY_TIMEOUT_S = 30.0  # how long a version may take to work through a Classifier
_POLL_INTERVAL_S = 0.05


_Job = tuple[CountedModel, Array]


class Classifier:
    """Holds the model, in one version or several; scores matrices, merging those of many preprocessors.

    Args:
        settings: of the whole application.
    """

    def __init__(self, settings: Settings) -> None:
        keep_calls_on_loopback()
        self._models = ModelStore(settings, lambda loaded: CountedModel(loaded, ReplicaMetrics(loaded)))
        self._rollout = Rollout()
        batches = settings.classifier_batches
        self._score = serve.batch(
            max_batch_size=batches.max_rows,
            batch_wait_timeout_s=batches.wait_timeout_s,
            max_concurrent_batches=batches.max_concurrent_batches,
            batch_size_fn=_count_rows,  # cannot fail: one that raises would end the batching task
        )(_batch_function())

    async def score(self, digest: str, matrix: bytes) -> bytes:
        """Probabilities of a matrix; both are the bytes of C-ordered float64 arrays, which cost less to send than arrays.

        Args:
            digest: of the components that the matrix was made with.
            matrix: shape (rows, features); at most ``classifier_batches.max_rows`` rows.

        Raises:
            ScoringError: this replica does not hold those components, and did not get them in time.
        """
        model = self._models.find(digest) or await self._wait_for(digest)
        features = len(model.components.manifest.features)
        probabilities: Array = await self._score((model, np.frombuffer(matrix).reshape(-1, features)))
        return probabilities.tobytes()

    async def reconfigure(self, user_config: dict[str, Any] | None) -> None:
        """Holds what ``user_config`` names; Ray Serve calls it when the replica starts, and at each change.

        What was named before stays too: preprocessors that have not switched yet still send it.
        """
        rollout = _read(user_config)
        if rollout is None:
            return
        for reference in rollout.references():
            await _load_or_reject(self._models, reference)
        self._models.keep_only(rollout.references() | self._rollout.references())
        self._rollout = rollout

    async def load(self, components: str, digest: str) -> str:
        """Loads a version beside the others; empty, or why it cannot be used. For ``handle.broadcast``."""
        return await _load_or_reject(self._models, ModelReference(components=components, digest=digest))

    async def check_health(self) -> None:
        """Raises RuntimeError when the batching task, which nothing revives, has ended; Ray Serve calls it now and then."""
        for model in self._models.held():
            model.metrics.tell_held()
        if not await self._score._is_batching_task_alive():  # noqa: SLF001 - the only way to see it
            raise RuntimeError("the batching task has ended")

    async def _wait_for(self, digest: str) -> CountedModel:
        deadline = perf_counter() + _ARRIVAL_TIMEOUT_S
        while perf_counter() < deadline:
            await asyncio.sleep(_POLL_INTERVAL_S)
            model = self._models.find(digest)
            if model is not None:
                return model
        raise ScoringError("the classifier and the preprocessor hold different model components")


class Preprocessor:
    """The ingress: holds a pipeline for each version of the model, and says which of them a request takes.

    Args:
        settings: of the whole application.
        classifier: the handle of the Classifier deployment, or None in the fused topology, where this replica scores.
    """

    def __init__(self, settings: Settings, classifier: Any | None) -> None:
        keep_calls_on_loopback()
        self.settings = settings
        self.admission = Admission(settings.limits.max_held_bytes)
        self._body_bytes = 0
        self._pipelines = ModelStore(settings, lambda loaded: Pipeline(settings, loaded, classifier))
        self._serving = self._pipelines.base
        self._rollout: Rollout | None = None
        self._canary: Pipeline | None = None
        self._canary_share = 0.0
        self._shadow: Shadow | None = None
        self._lock = asyncio.Lock()

    def choose(self) -> Pipeline:
        """The pipeline for one request, which stays with it to its end."""
        if self._canary is not None and random.random() < self._canary_share:  # noqa: S311 - a sample, no secret
            return self._canary
        return self._serving

    @property
    def serving(self) -> Pipeline:
        """The pipeline of the version that serves."""
        return self._serving

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

    async def drift(self) -> dict[str, Any] | None:
        """How far the rows have moved from those that trained the model; None where its manifest does not tell of them.

        Raises:
            ScoringError: what all replicas have counted could not be asked for.
        """
        watch = self._serving.metrics.drift
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
                return await self._serving.scores_golden_rows()
        except (TimeoutError, ScoringError) as error:
            _logger.warning("not ready: %s", str(error) or "the round trip takes too long")
            return False

    async def reconfigure(self, user_config: dict[str, Any] | None) -> None:
        """Switches to what ``user_config`` names; Ray Serve calls it when the replica starts, and at each change.

        A version that cannot be used never serves: a replica that serves goes on with its own, one that starts takes the
        previous one. Nothing is raised, for Ray Serve would end the replica.
        """
        rollout = _read(user_config)
        if rollout is None:
            return
        async with self._lock:
            is_first, self._rollout = self._rollout is None, rollout
            self._pipelines.rejected.clear()
            serving = await self._try(rollout.serving)
            if serving is None and is_first and rollout.previous is not None:
                serving = await self._try(rollout.previous)
            canary = None if rollout.canary is None else await self._try(rollout.canary)
            shadow = None if rollout.shadow is None else await self._try(rollout.shadow)
            if rollout.previous is not None:
                await _load_or_reject(self._pipelines, rollout.previous)
            if serving is not None:
                self._serving = serving
            self._canary, self._canary_share = canary, rollout.canary.share if rollout.canary is not None else 0.0
            self._shadow = None if shadow is None or rollout.shadow is None else Shadow(shadow, rollout.shadow.share)
            self._pipelines.keep_only(rollout.references())

    async def load(self, components: str, digest: str) -> str:
        """Loads a version beside the others and tries it; empty, or why it cannot be used. For ``handle.broadcast``."""
        reference = ModelReference(components=components, digest=digest)
        await self._try(reference)
        return self._pipelines.rejected.get(components, "")

    async def describe_rollout(self) -> dict[str, Any]:
        """Which versions this replica uses for what, and what it refused, as JSON values."""
        rollout = self._rollout or Rollout()
        return {
            "serving": _describe(self._serving),
            "previous": _describe(self._pipelines.named(rollout.previous)),
            "canary": _describe(self._canary, share=self._canary_share),
            "shadow": self._shadow and _describe(self._shadow.pipeline, share=self._shadow.share),
            "rejected": [{"components": folder, "reason": reason} for folder, reason in self._pipelines.rejected.items()],
        }

    async def check_health(self) -> None:
        """Healthy as long as it answers at all; Ray Serve calls it now and then."""
        self._serving.metrics.tell_serving()

    async def _try(self, reference: ModelReference | None) -> Pipeline | None:
        """The pipeline of a version that has been loaded and seen to work, or None."""
        try:
            pipeline = await self._pipelines.load(reference)
        except ComponentsError:
            return None
        if reference is None or pipeline is self._serving:
            return pipeline
        try:
            async with asyncio.timeout(_TRY_TIMEOUT_S):
                is_right = await pipeline.scores_golden_rows()
            reason = "its golden rows come back from the classifier with other probabilities"
        except (TimeoutError, ScoringError) as error:
            is_right, reason = False, f"the classifier does not score it: {str(error) or 'it takes too long'}"
        if not is_right:
            self._pipelines.reject(reference, reason)
            return None
        return pipeline


def _read(user_config: dict[str, Any] | None) -> Rollout | None:
    try:
        return read_rollout(user_config)
    except SettingsError:
        _logger.exception("the replica goes on as it was")
        return None


async def _load_or_reject(models: ModelStore[Any], reference: ModelReference) -> str:
    """Loads a version; empty, or the reason why it cannot be used."""
    try:
        await models.load(reference)
    except ComponentsError as error:
        return str(error)
    return ""


def _describe(pipeline: Pipeline | None, **more: float) -> dict[str, Any] | None:
    if pipeline is None:
        return None
    manifest = pipeline.components.manifest
    return {"name": manifest.name, "version": manifest.version, "digest": pipeline.components.digest, **more}


def _count_rows(jobs: list[_Job]) -> int:
    return count_rows([matrix for _, matrix in jobs])


def _batch_function() -> Callable[[list[_Job]], Awaitable[list[Array]]]:
    """What ``@serve.batch`` wraps: a function that carries its signature, for it is asked for on every call."""

    async def score_batch(jobs: list[_Job]) -> list[Array]:
        results: dict[int, Array] = {}
        for model in {id(model): model for model, _ in jobs}.values():  # one, but for the moments of a roll-out
            places = [place for place, job in enumerate(jobs) if job[0] is model]
            batch = [jobs[place][1] for place in places]
            results.update(zip(places, split(model.score(concatenate(batch)), batch), strict=True))
        return [results[place] for place in range(len(jobs))]

    score_batch.__signature__ = inspect.signature(score_batch)  # type: ignore[attr-defined]
    return score_batch
