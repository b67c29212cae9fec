"""Keeps the port for calls between replicas on loopback where the service runs on one machine.

Ray Serve 2.60 opens this port on every interface, and unpickles what arrives there with the right token. It has no setting for
it, so this module, and no other, changes Ray Serve's own code. If a later Ray Serve differs, replicas do not start.
"""

from __future__ import annotations

from typing import Any

import ray
from ray._common.tls_utils import add_port_to_grpc_server
from ray.serve._private import replica

__all__ = ["keep_calls_on_loopback"]

_LOOPBACK = "127.0.0.1"
_EVERYWHERE = "[::]:0"


def keep_calls_on_loopback() -> None:
    """Call this in a replica's constructor, before Ray Serve opens the port.

    Does nothing in a cluster, where other machines must reach the port.
    """
    if ray.util.get_node_ip_address() == _LOOPBACK:
        replica.add_port_to_grpc_server = _add_port_on_loopback


def _add_port_on_loopback(server: Any, address: str) -> Any:
    return add_port_to_grpc_server(server, address.replace(_EVERYWHERE, f"{_LOOPBACK}:0"))
