"""Which versions of the model a replica is told to hold, what it has loaded of them, and what it refused.

Owns the format of ``user_config``, which Ray Serve hands to each replica when it starts and whenever it changes, without a
restart. Knows no request: pipeline.py scores with a version, deployments.py chooses one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable
from time import perf_counter
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta

from serve_app.components.compiled import Components
from serve_app.components.loading import load_components, load_served_components, trust_of
from serve_app.components.signature import Trust
from serve_app.config import Settings, resolve_path
from serve_app.errors import ComponentsError, SettingsError

__all__ = ["ModelReference", "ModelStore", "Retry", "Rollout", "Trial", "load_or_reject", "read_or_keep", "read_rollout"]

_logger = logging.getLogger("ray.serve")  # the logger whose records Ray Serve keeps with the replica's
_MOST_REJECTED = 10
Held = TypeVar("Held")
Share = Annotated[float, Meta(ge=0, le=1)]
_RETRY_S, _LONGEST_RETRY_S = 5.0, 60.0  # what could not be used is tried again after so long, then after twice that, and so on


class ModelReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A folder of components, and the digest of its manifest where it has to be that and no other."""

    components: str
    digest: str | None = None

    def alone(self) -> ModelReference:
        """Which version it is, without what it is tried out for."""
        return ModelReference(components=self.components, digest=self.digest)


class Trial(ModelReference, frozen=True, kw_only=True):
    """A version that is tried out on a share of the requests."""

    share: Share


class Rollout(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``user_config`` of both deployments.

    ``serving``: the version that answers; None: that of the application's ``args``. ``previous`` is kept loaded, so that a
    roll-back takes no time. ``canary`` answers its share of the requests itself; ``shadow`` gets a copy of its share, and its
    answers are only compared.
    """

    serving: ModelReference | None = None
    previous: ModelReference | None = None
    canary: Trial | None = None
    shadow: Trial | None = None

    def references(self) -> set[ModelReference]:
        """All versions that it names."""
        named = (self.serving, self.previous, self.canary, self.shadow)
        return {each.alone() for each in named if each is not None}


def read_rollout(user_config: dict[str, Any] | None) -> Rollout:
    """``user_config`` as typed values.

    Raises:
        SettingsError: an unknown key, a value of the wrong type or out of bounds; the sentence names it.
    """
    try:
        return msgspec.convert(user_config or {}, Rollout)
    except msgspec.ValidationError as error:
        raise SettingsError(f"user_config cannot be used: {error}") from error


class ModelStore(Generic[Held]):
    """The versions that a replica holds, by digest.

    Args:
        settings: of the application; the components that they name are the base, which is never dropped. There is none where
            they cannot be used (their folder has changed, say): what the rollout names may serve all the same.
        make: what is held of a version, made of its components.
    """

    def __init__(self, settings: Settings, make: Callable[[Components], Held]) -> None:
        self._public_key = trust_of(settings).public_key
        self._make = make
        self._held: dict[str, Held] = {}
        self._base_digest = ""
        self._base_reference = ModelReference(components=settings.components, digest=settings.components_sha256)
        self._base_error: ComponentsError | None = None
        try:
            base = load_served_components(settings)
        except ComponentsError as error:
            self._base_error = error
        else:
            self._base_digest = base.digest
            self._held[base.digest] = make(base)
        self.rejected: dict[ModelReference, str] = {}
        """The latest versions that could not be used, each with the reason, until one in that folder can be."""
        self._digests: dict[ModelReference, str] = {}
        self._lock = asyncio.Lock()

    @property
    def base(self) -> Held:
        """What is held of the components that the settings name.

        Raises:
            ComponentsError: they cannot be used.
        """
        if self._base_error is not None:
            raise self._base_error
        return self._held[self._base_digest]

    def find(self, digest: str) -> Held | None:
        """What is held of a version, if it is."""
        return self._held.get(digest)

    def named(self, reference: ModelReference | None) -> Held | None:
        """What is held of a version that was loaded by this reference."""
        return None if reference is None else self._held.get(self._digests.get(reference.alone(), ""))

    def holds(self, reference: ModelReference | None) -> bool:
        """Whether a version has been loaded by this reference; None is the base."""
        return self._base_error is None if reference is None else self.named(reference) is not None

    def held(self) -> Collection[Held]:
        """What is held of every version."""
        return self._held.values()

    async def load(self, reference: ModelReference | None) -> Held:
        """What is held of a version, loaded and verified beside the others when it is not there yet; None is the base.

        The event loop goes on meanwhile.

        Raises:
            ComponentsError: what is wrong with the components; it is kept in ``rejected``.
        """
        if reference is None:
            if self._base_error is not None:
                self.reject(self._base_reference, str(self._base_error))
            return self.base
        reference = reference.alone()
        async with self._lock:
            found = self._held.get(reference.digest or "")
            if found is not None:
                self._digests[reference] = reference.digest or ""
                return found
            try:
                trust = Trust(reference.digest, self._public_key)
                components = await asyncio.to_thread(load_components, resolve_path(reference.components), trust)
                held = self._held.get(components.digest)
                if held is None:
                    held = self._held[components.digest] = self._make(components)
            except ComponentsError as error:
                self.reject(reference, str(error))
                raise
            self._digests[reference] = components.digest
            return held

    def reject(self, reference: ModelReference, reason: str) -> None:
        """Notes why a version cannot be used."""
        reference = reference.alone()
        if self.rejected.pop(reference, None) != reason:  # what is tried again and again is logged once
            _logger.error("the model in %s is not used: %s", reference.components, reason)
        self.rejected[reference] = reason
        for oldest in list(self.rejected)[:-_MOST_REJECTED]:
            del self.rejected[oldest]

    def accept(self, reference: ModelReference | None) -> None:
        """Notes that a version can be used, whatever was wrong in that folder before."""
        if reference is not None and self.rejected:
            folder = reference.components
            self.rejected = {other: reason for other, reason in self.rejected.items() if other.components != folder}

    def keep_only(self, references: Iterable[ModelReference]) -> None:
        """Lets go of every version that is not named, but for the base."""
        kept = {self._digests[reference] for reference in references if reference in self._digests}
        self._held = {digest: held for digest, held in self._held.items() if digest in kept or digest == self._base_digest}
        self._digests = {reference: digest for reference, digest in self._digests.items() if digest in self._held}


class Retry:
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


def read_or_keep(user_config: dict[str, Any] | None) -> Rollout | None:
    """The rollout that ``user_config`` describes; None, and a log record, where it is invalid."""
    try:
        return read_rollout(user_config)
    except SettingsError:
        _logger.exception("the replica goes on as it was")
        return None


async def load_or_reject(models: ModelStore[Any], reference: ModelReference) -> str:
    """Loads a version; empty, or the reason why it cannot be used."""
    try:
        await models.load(reference)
    except ComponentsError as error:
        return str(error)
    models.accept(reference)
    return ""
