"""A connection to a cluster that runs already, for commands that change what it serves."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from serve_app.operations.environment import allow_loopback_cluster

__all__ = ["prepare_to_connect"]


def prepare_to_connect(address: str) -> str:
    """Sets the environment for a connection, before Ray is imported, and returns the cluster's address.

    Args:
        address: ``auto`` is the cluster that was started last on this machine.
    """
    if address == "auto":
        with contextlib.suppress(OSError):
            address = Path(tempfile.gettempdir(), "ray", "ray_current_cluster").read_text(encoding="utf-8").strip()
    if address.startswith("127."):
        allow_loopback_cluster()
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray looks for a token by itself only where it finds the cluster, too
    os.environ["RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP"] = "1"  # there is no other loop here, whatever serve.env says
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # Ray Serve's threads would start another Ray after the shutdown of this one
    return address
