"""A connection to the Ray cluster of a service that runs already, for commands that change what it serves."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

from serve_app.errors import ReleaseError
from serve_app.operations.environment import allow_loopback_cluster, forget_proxies
from serve_app.operations.running_services import find_service

__all__ = ["connected", "prepare_to_connect"]


@contextlib.contextmanager
def connected(address: str | None = None, port: int | None = None) -> Iterator[None]:
    """A block with a connection; Ray must not be imported before.

    Args:
        address: of a Ray cluster; None finds a service of this user on this machine.
        port: the HTTP port of that service; needed only if there are several.

    Raises:
        ReleaseError: there is no such service.
        SettingsError: there are several.
    """
    address = address or find_service(port).ray_address
    prepare_to_connect(address)
    import ray
    from ray import serve  # noqa: F401 - it configures its logger when it is imported

    logging.getLogger("ray.serve").setLevel(logging.CRITICAL)  # what matters is raised
    try:
        ray.init(address=address, namespace="serve", log_to_driver=False, logging_level="error")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ReleaseError(f"no service runs at {address}: {str(error).strip().splitlines()[0]}") from error
    try:
        yield
    finally:
        ray.shutdown()


def prepare_to_connect(address: str) -> None:
    """Sets the environment for a connection, before Ray is imported."""
    forget_proxies()
    if address.startswith("127."):
        allow_loopback_cluster()
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ["RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP"] = "1"  # there is no other loop here, whatever serve.env says
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # Ray Serve's threads would start another Ray after the shutdown of this one
