"""The versions of the model that a replica has loaded, and those it rejected.

Owns loading and verifying next to the versions in use, and letting go of them. Knows no request, and not which version answers:
that is version_follower.py's task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from typing import Generic, TypeVar

from serve_app.components.compiled import Components
from serve_app.components.loading import load_components, load_served_components, trust_of, verify_files
from serve_app.components.signature import Trust
from serve_app.config import Settings, resolve_path
from serve_app.errors import ComponentsError
from serve_app.serving.replica_log import logger
from serve_app.serving.rollout import ModelReference, RejectedVersion

__all__ = ["ModelStore"]

_MAX_REJECTED = 10
Held = TypeVar("Held")


class ModelStore(Generic[Held]):
    """The versions that a replica holds, by digest.

    The components that the settings name are the base version, which is never dropped. If they cannot be used, because their
    folder has changed for example, the store starts without a base and can still load what a rollout names.

    Args:
        settings: settings of the application.
        make: builds what the replica keeps of a version from its components.
    """

    def __init__(self, settings: Settings, make: Callable[[Components], Held]) -> None:
        self._public_key = trust_of(settings).public_key
        self._make = make
        self._held: dict[str, Held] = {}
        self._base_digest = ""
        self.base_reference = ModelReference(components=settings.components, digest=settings.components_sha256)
        """How the settings name the base."""
        self._base_error: ComponentsError | None = None
        self._digests: dict[ModelReference, str] = {}
        try:
            base = load_served_components(settings)
        except ComponentsError as error:
            self._base_error = error
        else:
            self._base_digest = base.digest
            self._held[base.digest] = make(base)
            self._digests[self.base_reference] = base.digest
        self._rejected: dict[ModelReference, str] = {}
        self._lock = asyncio.Lock()

    @property
    def base(self) -> Held:
        """What the replica holds of the components that the settings name.

        Raises:
            ComponentsError: they cannot be used.
        """
        if self._base_error is not None:
            raise self._base_error
        return self._held[self._base_digest]

    def find(self, digest: str) -> Held | None:
        """The version with this digest, if the replica holds it."""
        return self._held.get(digest)

    def named(self, reference: ModelReference | None) -> Held | None:
        """The version that was loaded by this reference, if there is one."""
        return None if reference is None else self._held.get(self._digests.get(reference.alone(), ""))

    def holds(self, reference: ModelReference | None) -> bool:
        """Whether a version was loaded by this reference; None is the base."""
        return self._base_error is None if reference is None else self.named(reference) is not None

    def held(self) -> Collection[Held]:
        """Every version that the replica holds."""
        return self._held.values()

    async def load(self, reference: ModelReference | None) -> Held:
        """The version of this reference, which is loaded and verified if the replica does not hold it; None is the base.

        If it holds the version from another folder, the files in this one are verified: replicas that start later read them.
        The event loop goes on meanwhile.

        Raises:
            ComponentsError: what is wrong with the components; the store records it as a rejection.
        """
        if reference is None:
            if self._base_error is not None:
                self.reject(self.base_reference, str(self._base_error))
            return self.base
        reference = reference.alone()
        async with self._lock:
            if reference.digest is not None and self._digests.get(reference) == reference.digest:
                return self._held[reference.digest]
            try:
                held, digest = await self._load_from(reference)
            except ComponentsError as error:
                self.reject(reference, str(error))
                raise
            self._digests[reference] = digest
            return held

    async def _load_from(self, reference: ModelReference) -> tuple[Held, str]:
        folder, trust = resolve_path(reference.components), Trust(reference.digest, self._public_key)
        found = self._held.get(reference.digest or "")
        if found is not None:
            return found, await asyncio.to_thread(verify_files, folder, trust)
        components = await asyncio.to_thread(load_components, folder, trust)
        held = self._held.get(components.digest)
        if held is None:
            held = self._held[components.digest] = self._make(components)
        return held, components.digest

    async def load_or_explain(self, reference: ModelReference) -> str:
        """Loads a version; empty on success, otherwise why it cannot be used."""
        try:
            await self.load(reference)
        except ComponentsError as error:
            return str(error)
        self.accept(reference)
        return ""

    def reject(self, reference: ModelReference, reason: str) -> None:
        """Records why a version cannot be used."""
        reference = reference.alone()
        if self._rejected.pop(reference, None) != reason:  # log once, however often it is retried
            logger.error("the model in %s is not used: %s", reference.components, reason)
        self._rejected[reference] = reason
        for oldest in list(self._rejected)[:-_MAX_REJECTED]:
            del self._rejected[oldest]

    def accept(self, reference: ModelReference | None) -> None:
        """Records that a version can be used, which ends earlier rejections of the same folder."""
        if reference is not None and self._rejected:
            folder = reference.components
            self._rejected = {other: reason for other, reason in self._rejected.items() if other.components != folder}

    def why_rejected(self, reference: ModelReference) -> str | None:
        """Why this version was rejected, if it was."""
        return self._rejected.get(reference)

    def rejections(self) -> tuple[RejectedVersion, ...]:
        """The latest rejections, oldest first, until a version in the same folder can be used."""
        return tuple(
            RejectedVersion(components=reference.components, digest=reference.digest, reason=reason)
            for reference, reason in self._rejected.items()
        )

    def keep_only(self, references: Iterable[ModelReference]) -> None:
        """Lets go of every version but the base and those that were loaded by these references."""
        kept = {self._digests[reference] for reference in references if reference in self._digests}
        self._held = {digest: held for digest, held in self._held.items() if digest in kept or digest == self._base_digest}
        self._digests = {reference: digest for reference, digest in self._digests.items() if digest in self._held}
