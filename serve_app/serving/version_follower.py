"""Keeps the versions of a replica in step with ``user_config``, without a restart.

Owns the switch from one version to the next, and the rules that make it safe: a version that cannot be used never replaces one
that works; a Preprocessor switches only after the golden rows have come back right through a Classifier; and a Classifier keeps
every version that a Preprocessor may still send. What failed is retried, because the reason may pass: a Classifier that could
not be reached, a folder that was not there yet. Answers no request.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import msgspec

from serve_app.config import Limits
from serve_app.errors import ComponentsError, NotScorableError, ScoringError
from serve_app.serving.matrix_scorers import CountedModel
from serve_app.serving.metric_definitions import VERSION_UNAVAILABLE, make_gauge
from serve_app.serving.model_store import ModelStore
from serve_app.serving.pipeline import Pipeline
from serve_app.serving.replica_log import logger
from serve_app.serving.retry import Retry
from serve_app.serving.rollout import (
    ModelReference,
    Role,
    Rollout,
    RolloutDescription,
    Trial,
    TriedVersion,
    UsedVersion,
    read_or_keep,
)
from serve_app.serving.shadow import Shadow

__all__ = ["ModelFollower", "PipelineFollower", "VersionFollower"]

_TRY_TIMEOUT_S = 30.0  # time for a new version to score its golden rows through a Classifier
_START_PAUSE_S = 10.0  # before a replica with nothing to score with fails: Ray Serve starts the next one at once
Held = TypeVar("Held")


class VersionFollower(ABC, Generic[Held]):
    """What both kinds of replica share: one switch at a time, retries, and loading or refusing a version on request.

    Args:
        models: the versions that the replica holds.
    """

    def __init__(self, models: ModelStore[Held]) -> None:
        self.models = models
        self._rollout = Rollout()
        self._lock = asyncio.Lock()
        self._retry = Retry()
        self._gauge = make_gauge(VERSION_UNAVAILABLE)

    async def follow(self, user_config: dict[str, Any] | None) -> None:
        """Switches to the versions that ``user_config`` names.

        Raises nothing, because Ray Serve would end the replica: a version that cannot be used is recorded as rejected.
        """
        rollout = read_or_keep(user_config)
        if rollout is None:
            return
        async with self._lock:
            self._rollout = rollout
            self._retry.reset()
            await self._switch()

    async def check(self) -> None:
        """Reports what cannot be used, and retries it if that is due. Part of the replica's health check.

        Raises:
            ComponentsError: the replica has nothing to score with, so Ray Serve should start another.
        """
        if not self._can_score():
            await asyncio.sleep(_START_PAUSE_S)
            _ = self.models.base  # raises the reason
        unavailable = self.unavailable()
        self._tell(unavailable)
        if unavailable:
            self._retry.maybe(self._try_again)

    @abstractmethod
    async def load(self, reference: ModelReference) -> str:
        """Loads a version next to those in use; empty on success, otherwise why it cannot be used."""

    @abstractmethod
    def unavailable(self) -> set[Role]:
        """The roles for which the replica cannot use the version that the rollout names."""

    async def refuse(self, reference: ModelReference, reason: str) -> None:
        """Lets go of a version that another replica cannot use, and records why."""
        async with self._lock:
            self.models.reject(reference, reason)
            self.models.keep_only(self._needed())

    def _tell(self, unavailable: set[Role]) -> None:
        try:
            for role in self._rollout.by_role():
                self._gauge.set(float(role in unavailable), {"role": role})
        except Exception:
            logger.exception("a gauge could not be set")

    async def _try_again(self) -> None:
        async with self._lock:
            await self._resume()

    @abstractmethod
    async def _switch(self) -> None:
        """Follows a new rollout. Runs under the lock."""

    @abstractmethod
    async def _resume(self) -> None:
        """Follows the same rollout again, as far as it could not be followed. Runs under the lock."""

    @abstractmethod
    def _can_score(self) -> bool:
        """Whether the replica has any version to score with."""

    def _needed(self) -> set[ModelReference]:
        """The versions to keep."""
        return self._rollout.references()


class ModelFollower(VersionFollower[CountedModel]):
    """The versions of a Classifier.

    It also keeps the versions of the rollout before: preprocessors that have not switched yet still send them, and those of the
    last rollout whose serving version could be loaded are the ones that preprocessors stay with while a new one cannot be used.
    """

    def __init__(self, models: ModelStore[CountedModel]) -> None:
        super().__init__(models)
        self._last_usable = Rollout()

    async def load(self, reference: ModelReference) -> str:
        """Loads a version next to those in use; empty on success, otherwise why it cannot be used."""
        return await self.models.load_or_explain(reference)

    async def _switch(self) -> None:
        before = self._last_usable.references()
        await self._resume()
        self.models.keep_only(self._rollout.references() | before)

    async def _resume(self) -> None:
        for reference in self._rollout.references():
            await self.models.load_or_explain(reference)
        if self.models.holds(self._rollout.serving):
            self._last_usable = self._rollout

    def _can_score(self) -> bool:
        return bool(self.models.held())

    def unavailable(self) -> set[Role]:
        """The roles for which the replica cannot use the version that the rollout names."""
        return {role for role, reference in self._rollout.by_role().items() if not self.models.holds(reference)}

    def _needed(self) -> set[ModelReference]:
        return self._rollout.references() | self._last_usable.references()


class PipelineFollower(VersionFollower[Pipeline]):
    """The versions of a Preprocessor: which one answers a request, and which are on trial.

    Args:
        models: the versions that the replica holds.
        limits: limits of one request.
    """

    def __init__(self, models: ModelStore[Pipeline], limits: Limits) -> None:
        super().__init__(models)
        self.shadow: Shadow | None = None
        """The version that gets copies of requests, if there is one."""
        self._limits = limits
        self._serving = next(iter(models.held()), None)  # the base, if it can be used
        self._serving_reference = models.base_reference
        self._canary: tuple[Pipeline, Trial] | None = None
        self._shadow_trial: Trial | None = None
        self._is_starting = True
        self._unavailable: set[Role] = set()

    @property
    def serving(self) -> Pipeline:
        """The pipeline of the version that answers.

        Raises:
            ComponentsError: there is none yet, because the replica starts and can use neither what is named nor the base.
        """
        return self.models.base if self._serving is None else self._serving

    def choose(self) -> Pipeline:
        """The pipeline for one request: the canary's for its share of the requests, else the serving one."""
        if self._canary is not None:
            pipeline, trial = self._canary
            if random.random() < trial.share:  # noqa: S311 - a sample, not a secret
                return pipeline
        return self.serving

    async def load(self, reference: ModelReference) -> str:
        """Loads a version next to those in use and tries it; empty on success, otherwise why it cannot be used."""
        if await self._try(reference) is not None:
            return ""
        return self.models.why_rejected(reference) or "it cannot be used"

    def describe(self) -> RolloutDescription:
        """Which versions this replica uses for what, and what it rejected."""
        named = self._rollout.previous
        previous = self.models.named(named)
        shadow, trial = self.shadow, self._shadow_trial
        return RolloutDescription(
            serving=_describe(self.serving, self._serving_reference),
            previous=None if named is None or previous is None else _describe(previous, named),
            canary=None if self._canary is None else _describe_trial(*self._canary),
            shadow=None if shadow is None or trial is None else _describe_trial(shadow.pipeline, trial),
            rejected=self.models.rejections(),
            unavailable=tuple(sorted(self._unavailable)),
        )

    def unavailable(self) -> set[Role]:
        """The roles for which the replica cannot use the version that the rollout names."""
        return self._unavailable

    async def _switch(self) -> None:
        is_starting, self._is_starting = self._is_starting, False
        await self._use_named(may_fall_back=is_starting)

    async def _resume(self) -> None:
        await self._use_named()

    async def _use_named(self, *, may_fall_back: bool = False) -> None:
        """Uses what the rollout names; a replica that starts falls back to the previous version, another keeps its own."""
        rollout, unavailable = self._rollout, set[Role]()
        named = rollout.serving
        serving = await self._try(named)
        if serving is None:
            unavailable.add("serving")
            if may_fall_back and rollout.previous is not None:
                named = rollout.previous
                serving = await self._try(named)
        canary = None if rollout.canary is None else await self._try(rollout.canary)
        shadow = None if rollout.shadow is None else await self._try(rollout.shadow)
        if rollout.previous is not None and await self.models.load_or_explain(rollout.previous):
            unavailable.add("previous")
        if serving is not None:
            self._serving, self._serving_reference = serving, named or self.models.base_reference
        self._canary = None if canary is None or rollout.canary is None else (canary, rollout.canary)
        self.shadow, self._shadow_trial = self._shadow_of(shadow, rollout.shadow), rollout.shadow
        if rollout.canary is not None and canary is None:
            unavailable.add("canary")
        if rollout.shadow is not None and shadow is None:
            unavailable.add("shadow")
        self._unavailable = unavailable
        self.models.keep_only(rollout.references())

    def _shadow_of(self, pipeline: Pipeline | None, trial: Trial | None) -> Shadow | None:
        if pipeline is None or trial is None:
            return None
        if self.shadow is not None and self.shadow.pipeline is pipeline:  # keep the comparisons that are under way
            self.shadow.share = trial.share
            return self.shadow
        return Shadow(pipeline, trial.share, self._limits)

    async def _try(self, reference: ModelReference | None) -> Pipeline | None:
        """The pipeline of a version that has been loaded and has scored its golden rows; None if it cannot be used."""
        try:
            pipeline = await self.models.load(reference)
        except ComponentsError:
            return None
        if reference is None or pipeline is self._serving:
            self.models.accept(reference)
            return pipeline
        try:
            async with asyncio.timeout(_TRY_TIMEOUT_S):
                is_right = await pipeline.scores_golden_rows()
            reason = "the classifier scores its golden rows with other probabilities"
        except (TimeoutError, NotScorableError, ScoringError) as error:
            is_right, reason = False, f"the classifier does not score it: {str(error) or 'it takes too long'}"
        if not is_right:
            self.models.reject(reference, reason)
            return None
        self.models.accept(reference)
        return pipeline

    def _can_score(self) -> bool:
        return self._serving is not None


def _describe(pipeline: Pipeline, reference: ModelReference) -> UsedVersion:
    components = pipeline.components
    return UsedVersion(
        name=components.manifest.name,
        version=components.manifest.version,
        digest=components.digest,
        components=reference.components,
    )


def _describe_trial(pipeline: Pipeline, trial: Trial) -> TriedVersion:
    return TriedVersion(**msgspec.structs.asdict(_describe(pipeline, trial)), share=trial.share)
