"""The Classifier deployment: scores feature matrices that many preprocessors send, with the model that each was made for.

Owns merging concurrent matrices with ``@serve.batch`` and finding the model by the digest that comes with a matrix. Knows no
rows, columns or requests. Which models a replica holds is version_follower.py's task. A plain class: app.py makes it a
deployment.
"""

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
from serve_app.serving.batching import Result, score_by_halves
from serve_app.serving.loopback import keep_calls_on_loopback
from serve_app.serving.matrix_scorers import CountedModel
from serve_app.serving.metrics import ReplicaMetrics
from serve_app.serving.model_store import ModelStore
from serve_app.serving.rollout import ModelReference
from serve_app.serving.version_follower import ModelFollower

__all__ = ["Classifier"]

_ARRIVAL_TIMEOUT_S = 1.0  # how long a matrix waits for its version, which another replica may have loaded sooner
_POLL_INTERVAL_S = 0.05
_Job = tuple[CountedModel, Array]


class Classifier:
    """Scores matrices of features with one version of the model or several.

    Args:
        settings: settings of the application.
    """

    def __init__(self, settings: Settings) -> None:
        keep_calls_on_loopback()
        self._models = ModelStore(settings, lambda loaded: CountedModel(loaded, ReplicaMetrics(loaded)))
        self._versions = ModelFollower(self._models)
        batches = settings.classifier_batches
        self._score = serve.batch(
            max_batch_size=batches.max_rows,
            batch_wait_timeout_s=batches.wait_timeout_s,
            max_concurrent_batches=batches.max_concurrent_batches,
            batch_size_fn=_count_rows,  # must never raise: that would end the batching task
        )(_batch_function())

    async def score(self, digest: str, matrix: bytes) -> bytes | NotScorableError | ScoringError:
        """Probabilities of a matrix, or an error as a value, which Ray does not log as a failure.

        The error is a NotScorableError if the model cannot score one of the rows, and a ScoringError if this replica does not
        hold those components and did not load them in time.

        Matrix and probabilities are the bytes of C-ordered float64 arrays, which cost less to send than arrays.

        Args:
            digest: digest of the components that the matrix was made with.
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
        """Loads the versions that ``user_config`` names. Ray Serve calls it at the start and after each change."""
        await self._versions.follow(user_config)

    async def load(self, reference: ModelReference) -> str:
        """Loads a version next to those in use; empty on success, otherwise the reason. Called by ``handle.broadcast``."""
        return await self._versions.load(reference)

    async def refuse(self, reference: ModelReference, reason: str) -> None:
        """Lets go of a version that another replica cannot use, and records why. Called by ``handle.broadcast``."""
        await self._versions.refuse(reference, reason)

    async def check_health(self) -> None:
        """Ray Serve's health check; a version that could not be loaded is retried.

        A missing version does not make the replica unhealthy: another replica would read the same folders, and this one still
        scores with what it has.

        Raises:
            ComponentsError: the replica could load no version at all.
            RuntimeError: the batching task has ended, which nothing restarts.
        """
        await self._versions.check()
        for model in self._models.held():
            model.metrics.gauges.tell_held()
        if not await self._score._is_batching_task_alive():  # noqa: SLF001 - Ray Serve has no public way to ask
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
    """The function for ``@serve.batch``, which reads its signature on every call: so the function carries it."""

    async def score_batch(jobs: list[_Job]) -> list[Result]:
        results: dict[int, Result] = {}
        for model in {id(model): model for model, _ in jobs}.values():  # one model, except during a roll-out
            places = [place for place, job in enumerate(jobs) if job[0] is model]
            results.update(zip(places, await _score_with(model, [jobs[place][1] for place in places]), strict=True))
        return [results[place] for place in range(len(jobs))]

    score_batch.__signature__ = inspect.signature(score_batch)  # type: ignore[attr-defined]
    return score_batch


async def _score_with(model: CountedModel, matrices: list[Array]) -> list[Result]:
    async def score_merged(batch: list[Array]) -> Sequence[Result]:
        return split(model.score(concatenate(batch)), batch)

    # Any error: an exception that reached @serve.batch would fail every matrix of the batch.
    return await score_by_halves(matrices, score_merged, halve_on=Exception)
