"""Which versions of the model a replica should use, and what it reports about them.

Owns the format of ``user_config``, which Ray Serve hands to every replica when it starts and whenever the value changes,
without a restart; and the format of the description that a replica gives of itself. Loads nothing: that is model_store.py's
task.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from serve_app.errors import SettingsError
from serve_app.serving.replica_log import logger

__all__ = [
    "ModelReference",
    "RejectedVersion",
    "Role",
    "Rollout",
    "RolloutDescription",
    "Trial",
    "TriedVersion",
    "UsedVersion",
    "read_or_keep",
    "read_rollout",
]

Role = Literal["serving", "previous", "canary", "shadow"]
Share = Annotated[float, Meta(ge=0, le=1)]


class ModelReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A folder of components. ``digest`` pins its manifest; None accepts whatever the folder holds."""

    components: str
    digest: str | None = None

    def alone(self) -> ModelReference:
        """The same version without its share as a trial."""
        return ModelReference(components=self.components, digest=self.digest)


class Trial(ModelReference, frozen=True, kw_only=True):
    """A version on trial with a share of the requests."""

    share: Share


class Rollout(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``user_config`` of both deployments.

    ``serving`` is the version that answers; None is that of the application's ``args``. ``previous`` stays loaded, so that a
    rollback takes no time. ``canary`` answers its share of the requests. ``shadow`` gets copies of its share, and its answers
    are only compared.
    """

    serving: ModelReference | None = None
    previous: ModelReference | None = None
    canary: Trial | None = None
    shadow: Trial | None = None

    def references(self) -> set[ModelReference]:
        """Every version that the rollout names."""
        return {reference.alone() for reference in self.by_role().values() if reference is not None}

    def by_role(self) -> dict[Role, ModelReference | None]:
        """The versions by role, without the roles that name none; ``serving`` is always among them."""
        named: dict[Role, ModelReference | None] = {
            "serving": self.serving,
            "previous": self.previous,
            "canary": self.canary,
            "shadow": self.shadow,
        }
        return {role: reference for role, reference in named.items() if reference is not None or role == "serving"}


class UsedVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version that a replica uses: ``components`` is its folder, ``digest`` the SHA-256 of its manifest."""

    name: str
    version: str
    digest: str
    components: str


class TriedVersion(UsedVersion, frozen=True, kw_only=True):
    """A version on trial with a share of the requests."""

    share: float


class RejectedVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version that a replica could not use, and why."""

    components: str
    digest: str | None
    reason: str


class RolloutDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What one replica does with its rollout: the versions in use by role, and those it rejected.

    ``unavailable`` are the roles for which it cannot use the version that the rollout names. If ``serving`` is one of them, the
    replica falls back to ``serving``, which is another version.
    """

    serving: UsedVersion
    previous: UsedVersion | None
    canary: TriedVersion | None
    shadow: TriedVersion | None
    rejected: tuple[RejectedVersion, ...]
    unavailable: tuple[Role, ...]


def read_rollout(user_config: dict[str, Any] | None) -> Rollout:
    """``user_config`` as typed values.

    Raises:
        SettingsError: an unknown key, or a value of the wrong type or out of bounds; the message names it.
    """
    try:
        return msgspec.convert(user_config or {}, Rollout)
    except msgspec.ValidationError as error:
        raise SettingsError(f"user_config cannot be used: {error}") from error


def read_or_keep(user_config: dict[str, Any] | None) -> Rollout | None:
    """The rollout that ``user_config`` describes; None, with a log record, if it is invalid."""
    try:
        return read_rollout(user_config)
    except SettingsError:
        logger.exception("invalid user_config: the replica keeps its versions")
        return None
