"""The Classifier deployment: holds the model, scores the matrices of many preprocessors."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Any

import numpy as np
from ray import serve

from serve_app.config import Settings
from serve_app.errors import NotScorableError, ScoringError
from serve_app.scoring.arrays import Array, concatenate, count_rows, split
from serve_app.serving.batching import Result
from serve_app.serving.loopback import keep_calls_on_loopback
from serve_app.serving.matrix_scorers import CountedModel
from serve_app.serving.metrics import ReplicaMetrics
from serve_app.serving.versions import ModelReference, ModelStore, Retry, Rollout, load_or_reject, read_or_keep

__all__ = ["Classifier"]

_START_PAUSE_S = 10.0  # before a replica that has nothing to score with gives up: Ray Serve starts the next one at once
_ARRIVAL_TIMEOUT_S = 1.0  # how long a matrix waits for its version, which other replicas may have got sooner
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
        self._lasting = Rollout()  # the latest of which the serving version could be loaded
        self._lock = asyncio.Lock()
        self._retry = Retry()
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
        rollout = read_or_keep(user_config)
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
            await load_or_reject(self._models, reference)
        if self._models.holds(self._rollout.serving):
            self._lasting = self._rollout

    async def _load_missing(self) -> None:
        async with self._lock:
            await self._load_named()  # and lets go of nothing: preprocessors may switch later than this

    async def load(self, components: str, digest: str | None) -> str:
        """Loads a version beside the others; empty, or why it cannot be used. For ``handle.broadcast``."""
        return await load_or_reject(self._models, ModelReference(components=components, digest=digest))

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
