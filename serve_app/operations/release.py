"""The change of the model version of a service that runs: deploy, try out on a share of the requests, roll back.

Owns the order of the steps, from outside: a version is verified here, then loaded and tried by every replica beside the one
that serves, and only when all of them can use it is ``user_config`` changed, which is what replicas started later read too.
What a replica does with it is deployments.py's business. It takes a machine of the cluster, and Ray's token.
"""

from __future__ import annotations

import contextlib
import logging
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
from serve_app.operations.connection import prepare_to_connect
from serve_app.serving.versions import ModelReference, Rollout, Trial, read_rollout

__all__ = ["Release", "deploy", "roll_back"]

_IMPORT_PATH = "serve_app.app:build_app"
_SWITCH_TIMEOUT_S = 120.0
_POLL_INTERVAL_S = 0.2
_ATTEMPTS = 5


class Release(NamedTuple):
    """What serves now, as ``GET /model`` describes it, and how many replicas of each deployment say so."""

    rollout: dict[str, Any]
    replicas: dict[str, int]


def deploy(folder: Path, *, canary: float | None = None, shadow: float | None = None, address: str = "auto") -> Release:
    """Has the running service serve the components in ``folder``, or try them out on a share of the requests.

    Args:
        folder: of components; every node of the cluster must have it under this path.
        canary: the share of the requests that the version answers; None: all of them, unless it is a shadow.
        shadow: the share of the requests that the version gets a copy of.
        address: of the Ray cluster.

    Raises:
        ComponentsError: they cannot be used; the service goes on as it was.
        ReleaseError: a replica cannot use them, or did not switch; the service goes on as it was.
    """
    with _connected(address) as service:
        try:
            components = load_components(folder.resolve(), Trust(public_key=trust_of(service.settings).public_key))
        except ComponentsError as error:
            service.refuse(ModelReference(components=str(folder.resolve())), error)
            raise
        reference = ModelReference(components=str(folder.resolve()), digest=components.digest)
        before = service.rollout
        serving = service.serving_reference()
        role, share = ("shadow", shadow) if canary is None else ("canary", canary)
        if share is not None:
            trial = Trial(components=reference.components, digest=reference.digest, share=share)
            after = msgspec.structs.replace(before, serving=serving, **{role: trial})
        elif reference.digest == serving.digest:
            after = Rollout(serving=serving, previous=before.previous)
        else:
            after = Rollout(serving=reference, previous=serving)
        try:
            service.refuse_ambiguous(components)
            service.load_everywhere(reference)
            return service.switch(after, before)
        except ReleaseError as error:
            service.refuse(reference, error)
            raise


def roll_back(*, address: str = "auto") -> Release:
    """Takes back the latest ``deploy``: ends a trial when there is one, else serves the previous version again.

    Raises:
        ReleaseError: there is nothing to go back to, or a replica cannot; the service goes on as it was.
    """
    with _connected(address) as service:
        before = service.rollout
        if before.canary is not None or before.shadow is not None:
            after = Rollout(serving=before.serving, previous=before.previous)
        elif before.previous is not None:
            service.load_everywhere(before.previous)  # its folder may be gone by now, or a replica may lack it
            after = Rollout(serving=before.previous, previous=service.serving_reference())
        else:
            raise ReleaseError("there is no previous version to go back to")
        return service.switch(after, before)


class _Service:
    """The running service, seen from a machine of its cluster.

    Args:
        dashboard: the address of Ray's dashboard, by whose API applications are deployed.
    """

    def __init__(self, dashboard: str) -> None:
        from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

        self._client = ServeSubmissionClient(dashboard)
        self._name, self._config = self._read()

    @property
    def rollout(self) -> Rollout:
        """What ``user_config`` says."""
        return read_rollout(self._config["deployments"][0].get("user_config"))

    @property
    def settings(self) -> Settings:
        """The application's ``args``."""
        return load_settings(self._config["args"])

    def serving_reference(self) -> ModelReference:
        """The version that serves, with its digest."""
        (described, *_) = self._ask("Preprocessor", "describe_rollout")
        named = self.rollout.serving or ModelReference(components=self.settings.components)
        return ModelReference(components=named.components, digest=described["serving"]["digest"])

    def refuse_ambiguous(self, components: Components) -> None:
        """Refuses a version of the name and number of the one that serves that is another: no answer would say which."""
        manifest = components.manifest
        for described in self._ask("Preprocessor", "describe_rollout"):
            serving = described["serving"]
            is_same = serving["digest"] == components.digest
            if not is_same and (serving["name"], serving["version"]) == (manifest.name, manifest.version):
                raise ReleaseError(
                    f"{manifest.name} {manifest.version} serves already, with other contents: give it another version"
                )

    def load_everywhere(self, reference: ModelReference) -> None:
        """Has every replica load a version beside those that it has, and try it.

        Raises:
            ReleaseError: one cannot.
        """
        for deployment in reversed(self._deployments()):  # the Classifier first: the Preprocessor tries the version through it
            reasons = {reason for reason in self._ask(deployment, "load", reference.components, reference.digest) if reason}
            if reasons:
                raise ReleaseError(f"not deployed, for a {deployment} cannot use it: {'; '.join(sorted(reasons))}")

    def refuse(self, reference: ModelReference, error: ServeAppError) -> None:
        """Has every replica let go of a version that is not deployed, and tell why: in its log and in ``GET /model``."""
        for deployment in self._deployments():
            with contextlib.suppress(ReleaseError):  # what is wrong is said already
                self._ask(deployment, "refuse", reference.components, reference.digest, str(error))

    def switch(self, after: Rollout, before: Rollout) -> Release:
        """Puts ``after`` into ``user_config`` and waits until every replica does what it says.

        Raises:
            ReleaseError: one does not; ``before`` is back in force.
        """
        self._put(after)
        try:
            return self._wait_for(after, before)
        except ReleaseError:
            self._put(before)
            raise

    def _wait_for(self, after: Rollout, before: Rollout) -> Release:
        deadline = time.monotonic() + _SWITCH_TIMEOUT_S
        while True:
            described = self._ask("Preprocessor", "describe_rollout") if self._is_running() else []
            told = [each for one in described for each in one["rejected"]]  # also of other versions, and since long ago
            rejected = sorted({each["reason"] for each in told if _is_named(each, after) and not _is_named(each, before)})
            if rejected:
                raise ReleaseError(f"not deployed, for a Preprocessor cannot use it: {'; '.join(rejected)}")
            if described and all(_matches(one, after) for one in described):
                counts = {name: len(self._ask(name, "check_health")) for name in self._deployments()}
                return Release(described[0], counts)
            if time.monotonic() > deadline:
                raise ReleaseError(f"not all replicas have switched within {_SWITCH_TIMEOUT_S:.0f} s")
            time.sleep(_POLL_INTERVAL_S)

    def _read(self) -> tuple[str, dict[str, Any]]:
        details = self._client.get_serve_details()
        for name, application in details["applications"].items():
            config = application.get("deployed_app_config") or {}
            if config.get("import_path") == _IMPORT_PATH:
                return name, config
        raise ReleaseError("this service does not run on that Ray cluster")

    def _is_running(self) -> bool:
        return bool(self._client.get_serve_details()["applications"][self._name]["status"] == "RUNNING")

    def _put(self, rollout: Rollout) -> None:
        # Without what is None: an omitted key and a null are different things to whoever compares configs.
        user_config = {key: value for key, value in msgspec.to_builtins(rollout).items() if value is not None}
        for deployment in self._config["deployments"]:
            deployment["user_config"] = user_config
        details = self._client.get_serve_details()
        applications = [
            self._config if name == self._name else application["deployed_app_config"]
            for name, application in details["applications"].items()
        ]
        document = {key: details[key] for key in ("proxy_location", "http_options") if details.get(key)}
        self._client.deploy_applications({**document, "applications": applications})

    def _deployments(self) -> list[str]:
        return [deployment["name"] for deployment in self._config["deployments"]]

    def _ask(self, deployment: str, method: str, *arguments: Any) -> list[Any]:
        """What each replica of a deployment answers."""
        from ray import serve

        handle = serve.get_deployment_handle(deployment, self._name)
        for _ in range(_ATTEMPTS):
            try:
                answers: list[Any] = handle.broadcast(method, *arguments).results(timeout_s=_SWITCH_TIMEOUT_S)
            except Exception as error:  # noqa: BLE001 - whatever Ray raises of replicas that come and go meanwhile
                failure = f"{type(error).__name__}: {error}"
                time.sleep(1)
            else:
                return answers
        raise ReleaseError(f"a {deployment} did not answer: {failure}")


@contextlib.contextmanager
def _connected(address: str) -> Iterator[_Service]:
    address = prepare_to_connect(address)
    import ray
    from ray import serve  # noqa: F401 - it sets its logger up when it is imported

    logging.getLogger("ray.serve").setLevel(logging.CRITICAL)  # what matters is raised
    try:
        context = ray.init(address=address, namespace="serve", log_to_driver=False, logging_level="error")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ReleaseError(f"no service runs here: {str(error).strip().splitlines()[0]}") from error
    try:
        yield _Service(f"http://{context.dashboard_url}")
    finally:
        ray.shutdown()


def _is_named(rejected: dict[str, Any], rollout: Rollout) -> bool:
    """Whether a version that a replica rejected is one that the rollout would have answer."""
    named = {each.alone() for each in (rollout.serving, rollout.canary, rollout.shadow) if each is not None}
    return ModelReference(components=rejected["components"], digest=rejected["digest"]) in named


def _matches(described: dict[str, Any], rollout: Rollout) -> bool:
    """Whether a replica does what a rollout with digests says."""
    trials = {"canary": rollout.canary, "shadow": rollout.shadow}
    found = {role: described[role] and (described[role]["digest"], described[role]["share"]) for role in trials}
    wanted = {role: trial and (trial.digest, trial.share) for role, trial in trials.items()}
    return found == wanted and (rollout.serving is None or described["serving"]["digest"] == rollout.serving.digest)
