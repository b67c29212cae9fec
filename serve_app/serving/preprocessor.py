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
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray import serve
from ray.exceptions import RayError

from serve_app.api.body_budget import Admission
from serve_app.config import Settings
from serve_app.errors import ComponentsError, NotScorableError, ScoringError, SettingsError
from serve_app.serving.autoscaling import BODY_BYTES
from serve_app.serving.batching import Result, concatenate, count_rows, split
from serve_app.serving.loopback import keep_calls_on_loopback
from serve_app.serving.metrics import ReplicaMetrics
from serve_app.serving.pipeline import CountedModel, Pipeline
from serve_app.serving.shadow import Shadow
from serve_app.serving.versions import ModelReference, ModelStore, Rollout, read_rollout

__all__ = ["Classifier", "Preprocessor"]

Array = NDArray[np.float64]

_logger = logging.getLogger("ray.serve")  # the logger whose records Ray Serve keeps with the replica's
_ARRIVAL_TIMEOUT_S = 1.0  # how long a matrix waits for its version, which other replicas may have got sooner
_RETRY_S, _LONGEST_RETRY_S = 5.0, 60.0  # what could not be used is tried again after so long, then after twice that, and so on
_TRY_TIMEOUT_S = 30.0  # how long a version may take to work through a Classifier
_POLL_INTERVAL_S = 0.05
_START_PAUSE_S = 10.0  # before a replica that has nothing to score with gives up: Ray Serve starts the next one at once


_Job = tuple[CountedModel, Array]


class _Retry:
    """Tries again, ever more seldom, what may come right by itself; asked whenever Ray Serve asks for a replica's health."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self.reset()

    def reset(self) -> None:
        """Begins anew: there is something else to try."""
        self._pause_s = _RETRY_S
        self._next = perf_counter() + self._pause_s

    def maybe(self, attempt: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begins another attempt when it is time for one and none runs."""
        if perf_counter() < self._next or (self._task is not None and not self._task.done()):
            return
        self._pause_s = min(2 * self._pause_s, _LONGEST_RETRY_S)
        self._next = perf_counter() + self._pause_s
        self._task = asyncio.get_running_loop().create_task(attempt())


class Classifier:
    """Holds the model, in one version or several; scores matrices, merging those of many preprocessors.

    Args:
        settings: of the whole application.
    """

    def __init__(self, settings: Settings) -> None:
        keep_calls_on_loopback()
        self._models = ModelStore(settings, lambda loaded: CountedModel(loaded, ReplicaMetrics(loaded)))
        self._rollout = Rollout()
        self._lasting = Rollout()  # the latest of which the serving version could be loaded
        self._lock = asyncio.Lock()
        self._retry = _Retry()
        batches = settings.classifier_batches
        self._score = serve.batch(
            max_batch_size=batches.max_rows,
            batch_wait_timeout_s=batches.wait_timeout_s,
            max_concurrent_batches=batches.max_concurrent_batches,
            batch_size_fn=_count_rows,  # cannot fail: one that raises would end the batching task
        )(_batch_function())

    async def score(self, digest: str, matrix: bytes) -> bytes | NotScorableError | ScoringError:
        """Probabilities of a matrix, or why there are none, which is no failure for Ray to log.

        That is a NotScorableError where the model cannot take one of the rows, and a ScoringError where this replica does not
        hold those components and did not get them in time.

        Matrix and probabilities are the bytes of C-ordered float64 arrays, which cost less to send than arrays.

        Args:
            digest: of the components that the matrix was made with.
            matrix: shape (rows, features); at most ``classifier_batches.max_rows`` rows.
        """
        model = self._models.find(digest) or await self._wait_for(digest)
        if model is None:
            return ScoringError("the classifier and the preprocessor hold different model components")
        features = len(model.components.manifest.features)
        result: Result = await self._score((model, np.frombuffer(matrix).reshape(-1, features)))
        if isinstance(result, NotScorableError):
            return result
        if isinstance(result, Exception):
            raise result
        return result.tobytes()

    async def reconfigure(self, user_config: dict[str, Any] | None) -> None:
        """Holds what ``user_config`` names; Ray Serve calls it when the replica starts, and at each change.

        What was named before stays too, as long as the new serving version cannot be loaded, and while preprocessors that have
        not switched yet still send it.
        """
        rollout = _read(user_config)
        if rollout is None:
            return
        async with self._lock:
            self._rollout = rollout
            self._retry.reset()
            before = self._lasting.references()
            await self._load_named()
            self._models.keep_only(rollout.references() | before)

    async def _load_named(self) -> None:
        for reference in self._rollout.references():
            await _load_or_reject(self._models, reference)
        if self._models.holds(self._rollout.serving):
            self._lasting = self._rollout

    async def _load_missing(self) -> None:
        async with self._lock:
            await self._load_named()  # and lets go of nothing: preprocessors may switch later than this

    async def load(self, components: str, digest: str | None) -> str:
        """Loads a version beside the others; empty, or why it cannot be used. For ``handle.broadcast``."""
        return await _load_or_reject(self._models, ModelReference(components=components, digest=digest))

    async def refuse(self, components: str, digest: str | None, reason: str) -> None:
        """Lets go of a version that a replica cannot use, and notes why. For ``handle.broadcast``."""
        async with self._lock:
            self._models.reject(ModelReference(components=components, digest=digest), reason)
            self._models.keep_only(self._rollout.references() | self._lasting.references())

    async def check_health(self) -> None:
        """Raises RuntimeError when the batching task, which nothing revives, has ended; Ray Serve calls it now and then.

        A version that could not be loaded is tried again. That it is not there is no reason to end the replica: another would
        have the same folders, and this one scores with what it has. Ray Serve starts another only where it has nothing.
        """
        if not self._models.held():
            await asyncio.sleep(_START_PAUSE_S)
            _ = self._models.base  # raises why
        for model in self._models.held():
            model.metrics.tell_held()
        if not all(map(self._models.holds, self._rollout.references())):
            self._retry.maybe(self._load_missing)
        if not await self._score._is_batching_task_alive():  # noqa: SLF001 - the only way to see it
            raise RuntimeError("the batching task has ended")

    async def _wait_for(self, digest: str) -> CountedModel | None:
        deadline = perf_counter() + _ARRIVAL_TIMEOUT_S
        while perf_counter() < deadline:
            await asyncio.sleep(_POLL_INTERVAL_S)
            model = self._models.find(digest)
            if model is not None:
                return model
        return None


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
        self._serving = next(iter(self._pipelines.held()), None)  # the base, if it can be used
        self._rollout: Rollout | None = None
        self._canary: Pipeline | None = None
        self._canary_share = 0.0
        self._shadow: Shadow | None = None
        self._lock = asyncio.Lock()
        self._retry = _Retry()
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

    async def drift(self) -> dict[str, Any] | None:
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
        rollout = _read(user_config)
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
            self._is_complete &= not await _load_or_reject(self._pipelines, rollout.previous)
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
    models.accept(reference)
    return ""


def _describe(pipeline: Pipeline | None, **more: float) -> dict[str, Any] | None:
    if pipeline is None:
        return None
    manifest = pipeline.components.manifest
    return {"name": manifest.name, "version": manifest.version, "digest": pipeline.components.digest, **more}


def _count_rows(jobs: list[_Job]) -> int:
    return count_rows([matrix for _, matrix in jobs])


def _batch_function() -> Callable[[list[_Job]], Awaitable[list[Result]]]:
    """What ``@serve.batch`` wraps: a function that carries its signature, for it is asked for on every call."""

    async def score_batch(jobs: list[_Job]) -> list[Result]:
        results: dict[int, Result] = {}
        for model in {id(model): model for model, _ in jobs}.values():  # one, but for the moments of a roll-out
            places = [place for place, job in enumerate(jobs) if job[0] is model]
            results.update(zip(places, _score_jobs(model, [jobs[place][1] for place in places]), strict=True))
        return [results[place] for place in range(len(jobs))]

    score_batch.__signature__ = inspect.signature(score_batch)  # type: ignore[attr-defined]
    return score_batch


def _score_jobs(model: CountedModel, batch: Sequence[Array]) -> list[Result]:
    """The probabilities of each matrix, or why there are none: one that the model cannot take fails by itself."""
    try:
        return [*split(model.score(concatenate(batch)), batch)]
    except Exception as error:  # noqa: BLE001 - raised where it is waited for: @serve.batch would fail all of the batch
        if len(batch) == 1:
            return [error]
    middle = len(batch) // 2
    return [*_score_jobs(model, batch[:middle]), *_score_jobs(model, batch[middle:])]
