"""Ray's processes on this machine, alone or as the head of a cluster; all of them end with this process.

Owns how they are started, and the order in which they stop: first HTTP, which answers the requests in flight, then the
rest. Knows nothing of what is deployed on them.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
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
from serve_app.operations.stop_signals import StopSignal, on_stop_signals, raise_stop_signal, stop_requested

__all__ = ["CLUSTER_PORT", "METRICS_PORT", "address", "ray_command", "ray_start", "running", "start_alone", "start_head"]

CLUSTER_PORT = 6379
"""The port of the cluster's head that the other nodes connect to."""
METRICS_PORT = 8080
"""The port of Ray's metrics on each node of a cluster, for Prometheus."""
_REDIS_PASSWORD_FILE = "SERVE_APP_REDIS_PASSWORD_FILE"  # noqa: S105 - the name of a variable
_START_TIMEOUT_S = 120
_STACK_TRACE = re.compile(r"\) \[0x[0-9a-f]+\]|StackTrace")


@contextlib.contextmanager
def running(drain_timeout_s: float, before_stop: Callable[[], object] = lambda: None) -> Iterator[Callable[[], None]]:
    """A block in which Ray's processes may be started; all of them stop when it ends, or when a stop signal ends it.

    HTTP stops first: it accepts no more connections and answers the requests in flight. Yields a function that waits for a stop
    signal and raises ServiceDiedError if Ray dies.

    Args:
        drain_timeout_s: how long the requests in flight may take.
        before_stop: called when HTTP has stopped and Ray still runs.
    """
    adopt_orphans()
    stop_requested.clear()
    with contextlib.suppress(StopSignal):
        on_stop_signals(raise_stop_signal)
        try:
            yield _wait_for_the_end
        finally:
            on_stop_signals(signal.SIG_IGN)  # stopping has begun; a second Ctrl-C must not cut it short
            try:
                drain_http(drain_timeout_s)
            finally:
                stop_all(before_stop)


def start_alone(metrics_port: int | None = None) -> str:
    """Starts Ray for this machine only, connects to it, and returns the address of its dashboard.

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
        )
    except (ray.exceptions.RayError, OSError, RuntimeError, ValueError) as error:
        raise StartError(f"Ray did not start: {_last_line(str(error))}") from error
    on_stop_signals(raise_stop_signal)  # again: Ray has just installed its own handler of SIGTERM
    return str(context.dashboard_url)


def start_head(node_host: str | None, metrics_port: int | None = None) -> str:
    """Starts Ray as the head of a cluster, connects to it, and returns the address of its dashboard.

    The head runs no replicas, so that none is lost with it.

    Args:
        node_host: this machine's name or address in the network that the nodes share; None leaves the choice to Ray.
        metrics_port: for Prometheus.

    Raises:
        StartError: it did not start.
    """
    import ray

    make_token()
    address = [f"--node-ip-address={socket.gethostbyname(node_host)}"] if node_host else []
    # The dashboard and all of Ray's ports are open to the cluster's network; each requires the token.
    everyone = "--dashboard-host=0.0.0.0"
    metrics = f"--metrics-export-port={metrics_port or METRICS_PORT}"
    ray_start("--head", f"--port={CLUSTER_PORT}", "--num-cpus=0", everyone, *address, *_redis_options(), metrics)
    context = ray.init(address="auto", namespace="serve", log_to_driver=False, logging_level="error")
    on_stop_signals(raise_stop_signal)
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


def _wait_for_the_end() -> None:
    """Returns on a stop signal.

    Raises:
        ServiceDiedError: a process that Ray needs has died; a supervisor of this process may start the service again.
    """
    core = {process: name for name in ("raylet", "gcs_server") for process in processes_under(psutil.Process(), name)}
    while not stop_requested.is_set():
        gone, _ = psutil.wait_procs(core, timeout=1.0)
        if gone:
            raise ServiceDiedError(f"{core[gone[0]]}, which Ray needs, has died")
