"""Ray Serve's controller, asked directly.

Owns the two questions that a roll-out has for it. Ray's dashboard answers the same over HTTP, but it is a process that may
be gone, and HTTP may go through a proxy. Needs a connection to the Ray cluster (connection.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from serve_app.errors import ReleaseError

__all__ = ["ServeController"]

_TIMEOUT_S = 30
_ATTEMPTS = 5
_POLL_INTERVAL_S = 1.0

_Answer = TypeVar("_Answer")


class ServeController:
    """The controller of the cluster that this process is connected to.

    Raises:
        ReleaseError: Ray Serve does not run there.
    """

    def __init__(self) -> None:
        from ray.serve.context import _get_global_client
        from ray.serve.exceptions import RayServeException

        try:
            self._client = _get_global_client()
        except RayServeException as error:
            raise ReleaseError("Ray Serve does not run on that Ray cluster") from error

    def get_serve_details(self) -> dict[str, Any]:
        """The state and the config of all applications, as ``GET /api/serve/applications/`` of the dashboard gives them.

        Raises:
            ReleaseError: the controller does not answer.
        """
        import ray

        controller = self._client._controller  # noqa: SLF001 - the client has no method for it
        details: dict[str, Any] = _repeat(lambda: ray.get(controller.get_serve_instance_details.remote(), timeout=_TIMEOUT_S))
        return details

    def deploy_applications(self, document: dict[str, Any]) -> None:
        """Has the controller deploy the applications of a config, and remove others.

        Raises:
            ReleaseError: the controller does not answer, or refuses the config.
        """
        from ray.serve.schema import ServeDeploySchema

        config = ServeDeploySchema.model_validate(document)
        _repeat(lambda: self._client.deploy_apps(config))


def _repeat(ask: Callable[[], _Answer]) -> _Answer:
    """Repeats a call while Ray restarts a controller that died."""
    from ray.exceptions import GetTimeoutError, RayActorError, RayError

    failure: RayError | None = None
    for _ in range(_ATTEMPTS):
        try:
            return ask()
        except (RayActorError, GetTimeoutError) as error:
            failure = error
            time.sleep(_POLL_INTERVAL_S)
        except RayError as error:
            raise ReleaseError(f"Ray Serve refused: {_last_line(error)}") from error
    raise ReleaseError(f"Ray Serve's controller did not answer: {_last_line(failure)}") from failure


def _last_line(error: Exception | None) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
