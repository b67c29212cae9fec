"""Changes the model version of a running service: deploy, canary, shadow, rollback.

Owns the order of the steps, from outside the replicas: the version is verified on this machine, then every replica loads and
tries it next to the one in use, and only if all of them can use it does ``user_config`` change, which replicas that start later
read as well. What a replica does with ``user_config`` is serving/version_follower.py's task. Needs to run on a machine of the
Ray cluster, with Ray's token.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from serve_app.components.compiled import Components
from serve_app.components.loading import load_components, trust_of
from serve_app.components.signature import Trust
from serve_app.config import Settings, load_settings
from serve_app.errors import ComponentsError, ReleaseError, ServeAppError
from serve_app.operations.connection import connected
from serve_app.operations.rollout_lock import hold_rollout_lock
from serve_app.operations.serve_controller import ServeController
from serve_app.serving.client_schema import ClientSchema, client_schema, schema_changes
from serve_app.serving.rollout import (
    ModelReference,
    RejectedVersion,
    Rollout,
    RolloutDescription,
    Trial,
    TriedVersion,
    UsedVersion,
    read_rollout,
)

__all__ = ["Release", "deploy", "roll_back"]

_IMPORT_PATH = "serve_app.app:build_app"
_SWITCH_TIMEOUT_S = 120.0
_POLL_INTERVAL_S = 0.2
_ATTEMPTS = 5


class Release(NamedTuple):
    """What serves now, the number of replicas of each deployment, and what clients must send or expect that is new."""

    rollout: RolloutDescription
    replicas: dict[str, int]
    schema_changes: tuple[str, ...] = ()


def deploy(  # noqa: PLR0913 - each is a choice of the user
    folder: Path,
    *,
    canary: float | None = None,
    shadow: float | None = None,
    allow_schema_change: bool = False,
    address: str | None = None,
    port: int | None = None,
) -> Release:
    """Makes the running service use the components in ``folder``, for all requests or on trial for a share of them.

    Args:
        folder: folder of components, which every node of the cluster must have under the same path.
        canary: share of the requests that the version answers; None is all of them, unless ``shadow`` is given.
        shadow: share of the requests that are copied to the version.
        allow_schema_change: deploy it even if clients must send other rows than for the version that serves.
        address: address of the Ray cluster; None is that of a service of this user on this machine.
        port: HTTP port of that service; needed only if there are several.

    Raises:
        ComponentsError: the components cannot be used; the service goes on unchanged.
        ReleaseError: another roll-out is under way, clients would have to send other rows, or a replica cannot use the
            components or did not switch; the service goes on unchanged.
    """
    folder = folder.resolve()
    with _connected(address, port) as service, hold_rollout_lock(service.name, f"deploy {folder}"):
        components = service.verify(folder)
        reference = ModelReference(components=str(folder), digest=components.digest)
        before = service.rollout
        after = _after_deploy(before, service.serving_reference(), reference, canary=canary, shadow=shadow)
        try:
            service.refuse_ambiguous(components)
            changes = service.check_schema(components, allow_change=allow_schema_change)
            service.load_everywhere(reference)
            return service.switch(after, before)._replace(schema_changes=changes)
        except ReleaseError as error:
            service.refuse(reference, error)
            raise


def roll_back(*, address: str | None = None, port: int | None = None) -> Release:
    """Undoes the latest ``deploy``: ends the trials if there are any, otherwise serves the previous version again.

    Raises:
        ReleaseError: another roll-out is under way, there is no previous version, or a replica cannot use it; the service goes
            on unchanged.
    """
    with _connected(address, port) as service, hold_rollout_lock(service.name, "rollback"):
        before = service.rollout
        if before.canary is not None or before.shadow is not None:
            after = Rollout(serving=before.serving, previous=before.previous)
        elif before.previous is not None:
            service.load_everywhere(before.previous)  # a replica may not hold it, and its folder may be gone by now
            after = Rollout(serving=before.previous, previous=service.serving_reference())
        else:
            raise ReleaseError("there is no previous version to go back to")
        return service.switch(after, before)


def _after_deploy(
    before: Rollout, serving: ModelReference, deployed: ModelReference, *, canary: float | None, shadow: float | None
) -> Rollout:
    """The rollout that a deploy leads to. ``serving`` is what serves now, with its digest."""
    for role, share in (("canary", canary), ("shadow", shadow)):
        if share is not None:
            trial = Trial(components=deployed.components, digest=deployed.digest, share=share)
            return msgspec.structs.replace(before, serving=serving, **{role: trial})
    if deployed.digest == serving.digest:  # the same version, perhaps in another folder: there is nothing new to go back from
        return Rollout(serving=deployed, previous=before.previous)
    return Rollout(serving=deployed, previous=serving)


class _ApplicationConfig:
    """Ray Serve's config of the application. A roll-out reads three of its keys and changes one; the others pass through.

    Args:
        document: the config as it was deployed.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document

    @property
    def settings(self) -> Settings:
        """The application's ``args``."""
        return load_settings(self._document["args"])

    @property
    def rollout(self) -> Rollout:
        """``user_config``, which is the same for all deployments."""
        return read_rollout(self._document["deployments"][0].get("user_config"))

    @property
    def deployments(self) -> list[str]:
        """The names of the deployments, ingress first."""
        return [deployment["name"] for deployment in self._document["deployments"]]

    def with_rollout(self, rollout: Rollout) -> dict[str, Any]:
        """The document with another ``user_config``."""
        # Without the keys that are None: Ray Serve tells an absent key from a null when it compares configs.
        user_config = {key: value for key, value in msgspec.to_builtins(rollout).items() if value is not None}
        deployments = [{**deployment, "user_config": user_config} for deployment in self._document["deployments"]]
        return {**self._document, "deployments": deployments}


class _Service:
    """The running service, seen from a machine of its cluster.

    Args:
        controller: of Ray Serve there.
    """

    def __init__(self, controller: ServeController) -> None:
        self._client = controller
        self.name = self._find()

    @property
    def rollout(self) -> Rollout:
        """The rollout in force."""
        return self._config.rollout

    def verify(self, folder: Path) -> Components:
        """The components in a folder, verified on this machine as the service's settings ask.

        Raises:
            ComponentsError: they cannot be used. The replicas report it, too.
        """
        try:
            return load_components(folder, Trust(public_key=trust_of(self._config.settings).public_key))
        except ComponentsError as error:
            self.refuse(ModelReference(components=str(folder)), error)
            raise

    def serving_reference(self) -> ModelReference:
        """The version that serves, as a replica uses it; one that falls back is asked only if all do."""
        described = min(self._describe(), key=lambda one: "serving" in one.unavailable)
        return ModelReference(components=described.serving.components, digest=described.serving.digest)

    def check_schema(self, components: Components, *, allow_change: bool) -> tuple[str, ...]:
        """What clients must send or expect that is new, compared with the version that serves.

        Raises:
            ReleaseError: there is something, and it is not allowed.
        """
        manifest = components.manifest
        schemas: list[ClientSchema] = self._ask("Preprocessor", "describe_schema")
        changes = schema_changes(schemas[0], client_schema(manifest))
        if changes and not allow_change:
            listed = "".join(f"\n  {line}" for line in changes)
            raise ReleaseError(
                f"not deployed, because {manifest.name} {manifest.version} needs other rows than the model that serves:{listed}"
                "\nTo deploy it all the same, add --allow-schema-change"
            )
        return tuple(changes)

    def refuse_ambiguous(self, components: Components) -> None:
        """Refuses a version with the name and number of the serving one but other contents, which people could not tell apart.

        Raises:
            ReleaseError: it is such a version.
        """
        manifest = components.manifest
        for described in self._describe():
            serving = described.serving
            is_same = serving.digest == components.digest
            if not is_same and (serving.name, serving.version) == (manifest.name, manifest.version):
                raise ReleaseError(
                    f"{manifest.name} {manifest.version} serves already, with other contents: give it another version"
                )

    def load_everywhere(self, reference: ModelReference) -> None:
        """Makes every replica load a version next to those in use, and try it.

        Raises:
            ReleaseError: a replica cannot use it.
        """
        for deployment in reversed(
            self._config.deployments
        ):  # the Classifier first: a Preprocessor tries the version through it
            reasons = {reason for reason in self._ask(deployment, "load", reference) if reason}
            if reasons:
                raise ReleaseError(f"not deployed, because a {deployment} cannot use it: {'; '.join(sorted(reasons))}")

    def refuse(self, reference: ModelReference, error: ServeAppError) -> None:
        """Makes every replica let go of a version that is not deployed; its log and ``GET /model`` give the reason."""
        for deployment in self._config.deployments:
            with contextlib.suppress(ReleaseError):  # the caller raises the first error
                self._ask(deployment, "refuse", reference, str(error))

    def switch(self, after: Rollout, before: Rollout) -> Release:
        """Puts ``after`` into ``user_config`` and waits until every replica does what it says.

        Raises:
            ReleaseError: a replica does not. ``before`` is in force again, unless another hand has changed ``user_config``.
        """
        try:
            self._put(after)
            return self._wait_for(after, before)
        except BaseException:  # also Ctrl-C
            if self.rollout == after:
                self._put(before)
            raise

    def _wait_for(self, after: Rollout, before: Rollout) -> Release:
        deadline = time.monotonic() + _SWITCH_TIMEOUT_S
        while True:
            application = self._application()
            if _ApplicationConfig(application["deployed_app_config"]).rollout not in {before, after}:
                raise ReleaseError("not deployed, because user_config was changed by another hand meanwhile")
            described = self._describe() if application["status"] == "RUNNING" else []
            rejected = [each for one in described for each in one.rejected]  # of any version, from any time
            reasons = sorted({each.reason for each in rejected if _is_named(each, after) and not _is_named(each, before)})
            if reasons:
                raise ReleaseError(f"not deployed, because a Preprocessor cannot use it: {'; '.join(reasons)}")
            if described and all(_matches(one, after) for one in described):
                counts = {name: len(self._ask(name, "check_health")) for name in self._config.deployments}
                return Release(described[0], counts)
            if time.monotonic() > deadline:
                raise ReleaseError(f"not all replicas have switched within {_SWITCH_TIMEOUT_S:.0f} s")
            time.sleep(_POLL_INTERVAL_S)

    def _find(self) -> str:
        for name, application in self._client.get_serve_details()["applications"].items():
            if (application.get("deployed_app_config") or {}).get("import_path") == _IMPORT_PATH:
                return str(name)
        raise ReleaseError("this service does not run on that Ray cluster")

    def _application(self) -> dict[str, Any]:
        """What Ray Serve says about the application now."""
        try:
            application: dict[str, Any] = self._client.get_serve_details()["applications"][self.name]
        except KeyError as error:
            raise ReleaseError(f"the application {self.name} is no longer deployed") from error
        return application

    @property
    def _config(self) -> _ApplicationConfig:
        """The config in force now: whatever changed it last."""
        return _ApplicationConfig(self._application()["deployed_app_config"])

    def _put(self, rollout: Rollout) -> None:
        details = self._client.get_serve_details()
        applications = [
            _ApplicationConfig(application["deployed_app_config"]).with_rollout(rollout)
            if name == self.name
            else application["deployed_app_config"]
            for name, application in details["applications"].items()
        ]
        document = {key: details[key] for key in ("proxy_location", "http_options") if details.get(key)}
        self._client.deploy_applications({**document, "applications": applications})

    def _describe(self) -> list[RolloutDescription]:
        """What each Preprocessor replica says that it does."""
        return self._ask("Preprocessor", "describe_rollout")

    def _ask(self, deployment: str, method: str, *arguments: Any) -> list[Any]:
        """The answer of each replica of a deployment.

        Raises:
            ReleaseError: a replica did not answer.
        """
        from ray import serve

        handle = serve.get_deployment_handle(deployment, self.name)
        for _ in range(_ATTEMPTS):
            try:
                answers: list[Any] = handle.broadcast(method, *arguments).results(timeout_s=_SWITCH_TIMEOUT_S)
            except Exception as error:  # noqa: BLE001 - Ray raises many kinds for replicas that start or stop meanwhile
                failure = f"{type(error).__name__}: {error}"
                time.sleep(1)
            else:
                return answers
        raise ReleaseError(f"a {deployment} did not answer: {failure}")


@contextlib.contextmanager
def _connected(address: str | None = None, port: int | None = None) -> Iterator[_Service]:
    with connected(address, port):
        yield _Service(ServeController())


def _is_named(rejected: RejectedVersion, rollout: Rollout) -> bool:
    """Whether a rejected version is one that the rollout uses for requests."""
    named = {each.alone() for each in (rollout.serving, rollout.canary, rollout.shadow) if each is not None}
    return ModelReference(components=rejected.components, digest=rejected.digest) in named


def _matches(described: RolloutDescription, rollout: Rollout) -> bool:
    """Whether a replica does what a rollout with digests says."""
    return (
        (rollout.serving is None or _is_same(described.serving, rollout.serving))
        and _is_trial(described.canary, rollout.canary)
        and _is_trial(described.shadow, rollout.shadow)
    )


def _is_trial(described: TriedVersion | None, trial: Trial | None) -> bool:
    if described is None or trial is None:
        return described is None and trial is None
    return _is_same(described, trial) and described.share == trial.share


def _is_same(used: UsedVersion, reference: ModelReference) -> bool:
    """Whether it is the same version in the same folder, which replicas that start later read."""
    return (used.components, used.digest) == (reference.components, reference.digest)
