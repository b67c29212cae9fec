"""Keeps the port on which a replica takes calls from other replicas on loopback, where there is only this machine.

Ray Serve 2.60 opens it on every interface, and what arrives there is unpickled once the token is right. This is the one
place that reaches into Ray Serve's own code: it has no setting for it. Where Ray Serve has changed, replicas do not start.
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
    """To be called in a replica before Ray Serve opens the port, which it does after the replica's constructor.

    Does nothing in a cluster, where other machines have to reach the port.
    """
    if ray.util.get_node_ip_address() == _LOOPBACK:
        replica.add_port_to_grpc_server = _add_port_on_loopback


def _add_port_on_loopback(server: Any, address: str) -> Any:
    return add_port_to_grpc_server(server, address.replace(_EVERYWHERE, f"{_LOOPBACK}:0"))
