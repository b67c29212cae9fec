"""Ray's processes on this machine: alone, as the head of a cluster, or as a worker of one; all of them end with this process.

Owns their environment, ports, orphans and signals, and the order in which they stop: first HTTP, which answers what is in
flight, then the rest. Knows nothing of what is deployed on them.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from serve_app.errors import ServiceDiedError, StartError
from serve_app.operations.environment import CLUSTERS, PORTS, set_environment
from serve_app.operations.haproxy_admin import drain_http
from serve_app.operations.process_tree import adopt_orphans, processes_under, stop_all
from serve_app.operations.stop_signals import StopSignal, on_stop_signals, raise_stop_signal, stop_requested

__all__ = ["address", "join", "prepare_to_connect", "running", "start_alone", "start_head"]

_CLUSTER_PORT = 6379
_REDIS_PASSWORD_FILE = "SERVE_APP_REDIS_PASSWORD_FILE"  # noqa: S105 - the name of a variable
_METRICS_PORT = 8080  # of each node of a cluster, for Prometheus
_START_TIMEOUT_S = 120
_POLL_INTERVAL_S = 0.1
_DRAIN_REQUEST_TIMEOUT_S = 10
_GCS = "--gcs-address="
_STACK_TRACE = re.compile(r"\) \[0x[0-9a-f]+\]|StackTrace")


@contextlib.contextmanager
def running(drain_timeout_s: float, before_stop: Callable[[], object] = lambda: None) -> Iterator[Callable[[], None]]:
    """A block in which Ray's processes may be started; when it ends, or a stop signal ends it, all of them stop.

    HTTP stops first: it takes no more connections and answers what is in flight. Yields a function that waits for the end
    and raises ServiceDiedError when Ray dies.

    Args:
        drain_timeout_s: how long what is in flight may take.
        before_stop: called when HTTP has ended and Ray still runs.
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
    """Starts Ray for this machine only, and connects to it; the dashboard's address.

    Raises:
        StartError: it did not start.
    """
    # On systems where Ray makes no clusters, all its ports are on loopback. Here there is to be none either.
    os.environ[CLUSTERS] = "0"
    # Ray Serve's proxy for when there is no replica; in a cluster each node has to know that of the head.
    os.environ.setdefault("RAY_SERVE_FALLBACK_PROXY_HTTP_PORT", os.environ[PORTS[1]])  # replicas stay below it
    os.environ.setdefault("SERVE_SOCKET_REUSE_PORT_ENABLED", "0")
    _make_token()
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
    on_stop_signals(raise_stop_signal)  # again: Ray has just put its own handler of SIGTERM in place
    return str(context.dashboard_url)


def start_head(node_host: str | None, metrics_port: int | None = None) -> str:
    """Starts Ray as the head of a cluster, and connects to it; the dashboard's address.

    The head runs no replicas: they are where its loss does not take them along.

    Args:
        node_host: this machine's name or address in the network that the nodes share; None leaves the choice to Ray.
        metrics_port: for Prometheus.

    Raises:
        StartError: it did not start.
    """
    import ray

    _make_token()
    address = [f"--node-ip-address={socket.gethostbyname(node_host)}"] if node_host else []
    # The dashboard and all of Ray's ports are open to the cluster's network; each asks for the token.
    everyone = "--dashboard-host=0.0.0.0"
    options = [*address, *_redis_options(), _metrics_option(metrics_port)]
    _ray_start("--head", f"--port={_CLUSTER_PORT}", "--num-cpus=0", everyone, *options)
    context = ray.init(address="auto", namespace="serve", log_to_driver=False, logging_level="error")
    on_stop_signals(raise_stop_signal)
    return str(context.dashboard_url)


def prepare_to_connect(address: str) -> str:
    """Sets the environment for a connection to a cluster that runs, before Ray is imported; the cluster's address.

    Args:
        address: ``auto`` is the cluster that was started last on this machine.
    """
    if address == "auto":
        address = _latest_cluster() or address
    if address.startswith("127."):
        os.environ[CLUSTERS] = "0"  # otherwise Ray takes the machine's other address, where nobody listens
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray looks for a token by itself only where it finds the cluster, too
    os.environ["RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP"] = "1"  # there is no other here, whatever serve.env says
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # Ray Serve's threads would start a Ray of their own once this one is shut down
    return address


def _latest_cluster() -> str | None:
    """The address of the cluster that was started last on this machine, which each raylet has in its command line.

    The file in which Ray notes an address is written by ``ray start`` only, and outlives the cluster.
    """
    found: list[tuple[float, str]] = []
    for process in psutil.process_iter(["name", "cmdline", "create_time"]):
        if process.info["name"] == "raylet":
            words = process.info["cmdline"] or ()
            found += [(process.info["create_time"], word.removeprefix(_GCS)) for word in words if word.startswith(_GCS)]
    return max(found)[1] if found else None


def address() -> str:
    """The address of the Ray cluster that this process is connected to."""
    import ray

    return str(ray.get_runtime_context().gcs_address)


def join(head: str, environment: Path, num_cpus: int | None, drain_timeout_s: float, announce: Callable[[str], None]) -> None:
    """Makes this machine a worker of the cluster of ``head`` until a stop signal; then hands its replicas over and leaves.

    Args:
        head: the name or address of the head's machine.
        environment: as for ``set_environment``: the same as the head's.
        num_cpus: for replicas; None means all that this machine has.
        drain_timeout_s: how long it may take to hand the replicas over, and to answer what is in flight.
        announce: called with this node's address once it has joined.

    Raises:
        StartError: the head did not answer in time.
        ServiceDiedError: the head is gone, or Ray died; whoever supervises this process may start it again.
    """
    set_environment(environment)
    with running(drain_timeout_s, before_stop=lambda: _hand_over(head, drain_timeout_s)) as wait_for_the_end:
        address = _wait_for_head(head)
        cpus = [] if num_cpus is None else [f"--num-cpus={num_cpus}"]
        _ray_start(f"--address={head}:{_CLUSTER_PORT}", f"--node-ip-address={address}", *cpus, _metrics_option(None))
        announce(address)
        wait_for_the_end()


def _ray(*arguments: str, timeout_s: float | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ray.scripts.scripts", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)  # noqa: S603 - our own


def _ray_start(*arguments: str) -> None:
    """``ray start``: its processes become children of this one when it has started them and ends."""
    try:
        done = _ray("start", "--disable-usage-stats", "--log-color=false", *arguments, timeout_s=_START_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:  # the head may have gone while this node was joining
        raise StartError(f"Ray did not start within {_START_TIMEOUT_S} s") from error
    if done.returncode != 0:
        raise StartError(f"Ray did not start: {_last_line(done.stderr or done.stdout)}")


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


def _metrics_option(port: int | None) -> str:
    return f"--metrics-export-port={_METRICS_PORT if port is None else port}"


def _last_line(text: str) -> str:
    """What a failure says at the end; where Ray's C++ ends with a stack trace, what it says before that."""
    lines = [line for line in text.strip().splitlines() if line.strip() and not _STACK_TRACE.search(line)]
    return lines[-1] if lines else "it said nothing"


def _make_token() -> None:
    """The secret that Ray's processes know each other by, where Ray looks for it, unless it is there already.

    Ray makes one by itself where it is alone, but for everybody on the machine to read.
    """
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if "RAY_AUTH_TOKEN" in os.environ or path.exists():
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    scratch.touch(mode=0o600)
    scratch.write_text(secrets.token_hex(32), encoding="ascii")
    scratch.rename(path)  # at once: a worker that waits for it reads all of it


def _wait_for_head(head: str) -> str:
    """This machine's address in the network in which ``head`` is, once that answers and the token is there."""
    token = os.environ.get("RAY_AUTH_TOKEN_PATH")
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), _connect(head) as connection:
            if token is None or Path(token).exists():
                return str(connection.getsockname()[0])
        time.sleep(_POLL_INTERVAL_S)
    raise StartError(f"the head of the cluster did not answer on {head}:{_CLUSTER_PORT} within {_START_TIMEOUT_S} s")


def _connect(head: str) -> socket.socket:
    return socket.create_connection((head, _CLUSTER_PORT), timeout=5)


def _wait_for_the_end() -> None:
    """Returns after a stop signal, if that does not end it; otherwise it ends with a process that Ray cannot do without.

    Raises:
        ServiceDiedError: Ray has died; whoever supervises this process may start it again.
    """
    core = {process: name for name in ("raylet", "gcs_server") for process in processes_under(psutil.Process(), name)}
    while not stop_requested.is_set():
        gone, _ = psutil.wait_procs(core, timeout=1.0)
        if gone:
            raise ServiceDiedError(f"{core[gone[0]]}, which Ray cannot do without, has died")


def _hand_over(head: str, timeout_s: float) -> None:
    """Has the cluster start this node's replicas elsewhere, and waits until those here have answered and ended."""
    reason = ("--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=the node stops")
    grace = f"--deadline-remaining-seconds={timeout_s:.0f}"
    deadline = time.monotonic() + timeout_s
    # Without the head, or when it goes meanwhile, nobody takes them: then the whole cluster stops.
    with contextlib.suppress(subprocess.TimeoutExpired, OSError):
        _connect(head).close()
        request_timeout_s = min(timeout_s, _DRAIN_REQUEST_TIMEOUT_S)
        done = _ray("drain-node", f"--address={head}:{_CLUSTER_PORT}", *reason, grace, timeout_s=request_timeout_s)
        while done.returncode == 0 and _has_replicas() and time.monotonic() < deadline:
            _connect(head).close()
            time.sleep(_POLL_INTERVAL_S)


def _has_replicas() -> bool:
    return bool(processes_under(psutil.Process(), "ray::ServeRepl"))
