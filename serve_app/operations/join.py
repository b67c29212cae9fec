"""This machine as a worker of a cluster: waits for the head, joins, and hands its replicas over before it leaves."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from serve_app.errors import StartError
from serve_app.operations.environment import set_environment
from serve_app.operations.lifetime import lifetime
from serve_app.operations.process_tree import processes_under
from serve_app.operations.ray_processes import CLUSTER_PORT, METRICS_PORT, ray_command, ray_start, running
from serve_app.operations.stop_signals import StopSignals

__all__ = ["join"]

_HEAD_TIMEOUT_S = 120
_POLL_INTERVAL_S = 0.1
_DRAIN_REQUEST_TIMEOUT_S = 10


def join(  # noqa: PLR0913 - each is a choice of the user
    head: str,
    environment: Path,
    announce: Callable[[str, tuple[str, ...]], None],
    *,
    stop: StopSignals,
    num_cpus: int | None = None,
    drain_timeout_s: float = 30.0,
) -> None:
    """Makes this machine a worker until a stop signal; then hands its replicas over and leaves.

    Args:
        head: the name or address of the head's machine.
        environment: a file of variables for Ray, the same as the head's.
        announce: called with this node's address, and notes for the user, once it has joined.
        stop: the stop signals.
        num_cpus: for replicas; None means all that this machine has.
        drain_timeout_s: how long it may take to hand the replicas over, and to answer the requests in flight.

    Raises:
        SettingsError: the environment file cannot be used.
        StartError: the head did not answer in time.
        ServiceDiedError: the head has gone, or Ray died; a supervisor of this process may start it again.
    """
    with lifetime(stop) as service:
        notes = (*service.notes, *set_environment(environment, service.folder, is_cluster=True))
        with running(
            stop, service.guard_pid, drain_timeout_s, before_stop=lambda: _hand_over(head, drain_timeout_s)
        ) as wait_for_the_end:
            address = _wait_for_head(head)
            ray_start(
                f"--address={head}:{CLUSTER_PORT}",
                f"--node-ip-address={address}",
                f"--metrics-export-port={METRICS_PORT}",
                f"--temp-dir={service.folder / 'ray'}",
                *([] if num_cpus is None else [f"--num-cpus={num_cpus}"]),
            )
            service.announce(f"{head}:{CLUSTER_PORT}")
            stop.is_serving = True
            announce(address, notes)
            wait_for_the_end()


def _wait_for_head(head: str) -> str:
    """This machine's address in the network of the head, once the head answers and the token is there."""
    token = os.environ.get("RAY_AUTH_TOKEN_PATH")
    deadline = time.monotonic() + _HEAD_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), _connect(head) as connection:
            if token is None or Path(token).exists():
                return str(connection.getsockname()[0])
        time.sleep(_POLL_INTERVAL_S)
    raise StartError(f"the head of the cluster did not answer on {head}:{CLUSTER_PORT} within {_HEAD_TIMEOUT_S} s")


def _connect(head: str) -> socket.socket:
    return socket.create_connection((head, CLUSTER_PORT), timeout=5)


def _hand_over(head: str, timeout_s: float) -> None:
    """Has the cluster start this node's replicas elsewhere, and waits until those here have answered and ended."""
    reason = ("--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=the node stops")
    grace = f"--deadline-remaining-seconds={timeout_s:.0f}"
    deadline = time.monotonic() + timeout_s
    # If the head is gone, or goes meanwhile, nobody takes over: the whole cluster stops.
    with contextlib.suppress(subprocess.TimeoutExpired, OSError):
        _connect(head).close()
        request_timeout_s = min(timeout_s, _DRAIN_REQUEST_TIMEOUT_S)
        done = ray_command("drain-node", f"--address={head}:{CLUSTER_PORT}", *reason, grace, timeout_s=request_timeout_s)
        while done.returncode == 0 and _has_replicas() and time.monotonic() < deadline:
            _connect(head).close()
            time.sleep(_POLL_INTERVAL_S)


def _has_replicas() -> bool:
    return bool(processes_under(psutil.Process(), "ray::ServeRepl"))
