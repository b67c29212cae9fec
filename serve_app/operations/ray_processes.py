"""Ray's processes on this machine, alone or as the head of a cluster; all of them end with this process.

Owns how they are started, and the order in which they stop: first HTTP, which answers the requests in flight, then the
rest. Knows nothing of what is deployed on them.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from serve_app.errors import ServiceDiedError, StartError
from serve_app.operations.haproxy_admin import drain_http
from serve_app.operations.process_tree import adopt_orphans, processes_under, stop_all
from serve_app.operations.ray_token import make_token
from serve_app.operations.stop_signals import StopSignals

__all__ = ["CLUSTER_PORT", "METRICS_PORT", "address", "ray_command", "ray_start", "running", "start_alone", "start_head"]

CLUSTER_PORT = 6379
"""The port of the cluster's head that the other nodes connect to."""
METRICS_PORT = 8080
"""The port of Ray's metrics on each node of a cluster, for Prometheus."""
_REDIS_PASSWORD_FILE = "SERVE_APP_REDIS_PASSWORD_FILE"  # noqa: S105 - the name of a variable
_START_TIMEOUT_S = 120
_POLL_INTERVAL_S = 0.5
_STACK_TRACE = re.compile(r"\) \[0x[0-9a-f]+\]|StackTrace")


@contextlib.contextmanager
def running(
    stop: StopSignals, guard_pid: int, drain_timeout_s: float, before_stop: Callable[[], object] = lambda: None
) -> Iterator[Callable[[], None]]:
    """A block in which Ray's processes may be started; all of them stop when it ends.

    HTTP stops first: it accepts no more connections and answers the requests in flight. Yields a function that waits for a stop
    signal and raises ServiceDiedError if Ray dies.

    Args:
        stop: the stop signals.
        guard_pid: the process below this one that ends last, by itself.
        drain_timeout_s: how long the requests in flight may take.
        before_stop: called when HTTP has stopped and Ray still runs.
    """
    adopt_orphans()
    try:
        yield lambda: _wait_for_the_end(stop)
    finally:
        stop.is_serving = True  # from now on a signal must not cut the end short
        try:
            drain_http(drain_timeout_s)
        finally:
            stop_all(before_stop, guard_pid)


def start_alone(folder: Path, metrics_port: int | None = None) -> str:
    """Starts Ray for this machine only, connects to it, and returns the address of its dashboard.

    Args:
        folder: for Ray's files; Ray makes its own folder writable for all users, so this one must not be.
        metrics_port: for Prometheus; None leaves the choice to Ray.

    Raises:
        StartError: it did not start.
    """
    make_token()
    import ray

    try:
        context = ray.init(
            address="local",
            namespace="serve",
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            log_to_driver=False,
            logging_level="error",
            _metrics_export_port=metrics_port,
            _temp_dir=str(folder / "ray"),
        )
    except Exception as error:  # Ray raises Exception itself for a node that does not start
        raise StartError(f"Ray did not start: {_last_line(str(error))}") from error
    return str(context.dashboard_url)


def start_head(folder: Path, node_host: str | None, metrics_port: int | None = None) -> str:
    """Starts Ray as the head of a cluster, connects to it, and returns the address of its dashboard.

    The head runs no replicas, so that none is lost with it.

    Args:
        folder: for Ray's files, as in ``start_alone``.
        node_host: this machine's name or address in the network that the nodes share; None leaves the choice to Ray.
        metrics_port: for Prometheus.

    Raises:
        StartError: it did not start.
    """
    import ray

    make_token()
    host = socket.gethostbyname(node_host) if node_host else ray.util.get_node_ip_address()
    ray_start(
        "--head",
        f"--node-ip-address={host}",
        f"--port={CLUSTER_PORT}",
        "--num-cpus=0",
        "--dashboard-host=0.0.0.0",  # like all of Ray's ports open to the cluster's network; each requires the token
        f"--metrics-export-port={metrics_port or METRICS_PORT}",
        f"--temp-dir={folder / 'ray'}",
        *_redis_options(),
    )
    context = ray.init(address=f"{host}:{CLUSTER_PORT}", namespace="serve", log_to_driver=False, logging_level="error")
    return str(context.dashboard_url)


def address() -> str:
    """The address of the Ray cluster that this process is connected to."""
    import ray

    return str(ray.get_runtime_context().gcs_address)


def ray_start(*arguments: str) -> None:
    """Runs ``ray start``; the processes that it starts become children of this one when it ends.

    Raises:
        StartError: it failed, or took too long.
    """
    try:
        done = ray_command("start", "--disable-usage-stats", "--log-color=false", *arguments, timeout_s=_START_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:  # the head may have gone while this node was joining
        raise StartError(f"Ray did not start within {_START_TIMEOUT_S} s") from error
    if done.returncode != 0:
        raise StartError(f"Ray did not start: {_last_line(done.stderr or done.stdout)}")


def ray_command(*arguments: str, timeout_s: float | None = None) -> subprocess.CompletedProcess[str]:
    """Runs Ray's command line."""
    command = [sys.executable, "-m", "ray.scripts.scripts", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)  # noqa: S603 - our own


def _redis_options() -> list[str]:
    """The password of the Redis at RAY_REDIS_ADDRESS, in which the cluster's state outlives the head.

    Raises:
        StartError: the file that holds it cannot be read.
    """
    path = os.environ.get(_REDIS_PASSWORD_FILE)
    if not path:
        return []
    try:
        return [f"--redis-password={Path(path).read_text(encoding='ascii').strip()}"]
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"the password of Redis cannot be read: {error}") from error


def _last_line(output: str) -> str:
    """The last line of a failure's output that is not part of a C++ stack trace."""
    lines = [line for line in output.strip().splitlines() if line.strip() and not _STACK_TRACE.search(line)]
    return lines[-1] if lines else "it gave no reason"


def _wait_for_the_end(stop: StopSignals) -> None:
    """Returns on a stop signal.

    Raises:
        ServiceDiedError: a process that Ray needs has died; a supervisor of this process may start the service again.
    """
    core = {process: name for name in ("raylet", "gcs_server") for process in processes_under(psutil.Process(), name)}
    while not stop.requested.wait(_POLL_INTERVAL_S):
        gone, _ = psutil.wait_procs(core, timeout=0)
        if gone:
            raise ServiceDiedError(f"{core[gone[0]]}, which Ray needs, has died")
