"""The service in the foreground: checks its settings, starts Ray and Ray Serve, waits until it answers, and stops all of it.

Owns the order of a start. The settings are in config/serve_config.yaml, what they deploy is in app.py, and Ray's processes,
ports and signals belong to the modules beside this one; ``serve run config/serve_config.yaml`` deploys the same without any
of them.
"""

from __future__ import annotations

import contextlib
import copy
import ipaddress
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import yaml

from serve_app.api.key_file import read_keys
from serve_app.components.loading import load_served_components, trust_of, verify_files
from serve_app.config import resolve_path
from serve_app.errors import NotReadyError, SettingsError, StartError
from serve_app.operations import haproxy_config as front
from serve_app.operations.environment import set_environment
from serve_app.operations.lifetime import lifetime
from serve_app.operations.ports import check_port
from serve_app.operations.ray_processes import address, running, start_alone
from serve_app.operations.ready import ask_ready_at, service_url
from serve_app.operations.serve_config import Overrides, ServeConfig, read_serve_config
from serve_app.operations.stop_signals import StopSignals

__all__ = ["Service", "run_service"]

_START_TIMEOUT_S = 120
_READY_TIMEOUT_S = 10
_POLL_INTERVAL_S = 0.1


class Service(NamedTuple):
    """A service that answers; ``notes`` and ``warnings`` are sentences for the user."""

    url: str
    dashboard_url: str
    ray_address: str
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def run_service(  # noqa: PLR0913 - each is a choice of the user
    config: Path,
    environment: Path,
    announce: Callable[[Service], None],
    overrides: Overrides = Overrides(),  # noqa: B008 - it is immutable
    *,
    stop: StopSignals,
    start_ray: Callable[[Path], str] = start_alone,
    is_cluster: bool = False,
    drain_timeout_s: float = 30.0,
) -> None:
    """Serves until SIGINT, SIGTERM or SIGHUP, then answers the requests in flight and ends every process that it started.

    Args:
        config: a Ray Serve config file.
        environment: a file of variables for Ray; a variable that is set already keeps its value.
        announce: called once, when the service answers.
        overrides: values that replace those of the config.
        stop: the stop signals.
        start_ray: starts Ray with its files in a folder, and returns the address of its dashboard.
        is_cluster: whether replicas run on other machines too.
        drain_timeout_s: how long the requests in flight may take at the end.

    Raises:
        PortInUseError: another process listens on the HTTP port.
        SettingsError, ComponentsError, KeysError: the config, the environment file, the model components or the keys file
            cannot be used.
        StartError: Ray or Ray Serve did not start.
        ServiceDiedError: Ray ended by itself.
    """
    settings = read_serve_config(config).overridden(overrides)
    _check_applications(settings)
    warnings = _check_access(settings)
    with lifetime(stop, config=config.resolve(), port=settings.http_options.port) as service:
        notes = (*service.notes, *set_environment(environment, service.folder, is_cluster=is_cluster))
        check_port(settings.http_options.host, settings.http_options.port)
        settings.check_ray_options()
        warnings = (*warnings, *_check_ray_token())
        url = service_url(settings.http_options)
        deployed = _move_options_to_haproxy(settings, is_cluster=is_cluster)
        applications = [application.args for application in settings.applications]
        # Loading components takes seconds, and so does starting Ray: both happen at once.
        with (
            running(stop, service.guard_pid, drain_timeout_s) as wait_for_the_end,
            ThreadPoolExecutor(max_workers=1) as loader,
        ):
            loaded = loader.submit(lambda: list(map(load_served_components, applications)))
            dashboard = start_ray(service.folder)
            stop.install()  # again: Ray has just installed its own handler of SIGTERM
            loaded.result()
            _deploy(deployed)
            _wait_until_ready(url)
            stop.is_serving = True
            service.announce(address())
            announce(Service(url, f"http://{dashboard}", address(), notes, warnings))
            wait_for_the_end()


def _check_applications(config: ServeConfig) -> None:
    """Refuses now what a replica would refuse after half a minute.

    Raises:
        SettingsError: the deployments do not fit the topology.
        ComponentsError: files of the model components are missing or were changed.
    """
    for application in config.applications:
        settings = application.args
        if settings.topology == "fused" and any(deployment.name == "Classifier" for deployment in application.deployments):
            raise SettingsError(f"{config.path}: the fused topology has no Classifier; remove it from deployments")
        verify_files(resolve_path(settings.components), trust_of(settings))


def _check_access(config: ServeConfig) -> tuple[str, ...]:
    """Warnings about who can use the service.

    Raises:
        KeysError: a keys file that the config names cannot be used.
    """
    host, is_open = config.http_options.host, False
    for application in config.applications:
        keys_file = application.args.access.keys_file
        if keys_file is None:
            is_open = True
        else:
            read_keys(resolve_path(keys_file))
    if not is_open or _is_loopback(host):
        return ()
    warning = (
        f"WARNING: {host} can be reached from other machines, and no API keys are set: everyone who reaches the port can use "
        "the service. `python -m serve_app keys make` makes a key; `run --keys` or access.keys_file in the config requires it."
    )
    return (warning,)


def _check_ray_token() -> tuple[str, ...]:
    """A warning if Ray's token, which config/serve.env switches on, is off."""
    mode = os.environ.get("RAY_AUTH_MODE", "")
    if mode.lower() == "token":
        return ()
    return (f"WARNING: RAY_AUTH_MODE is {mode!r}, not token: everyone who reaches one of Ray's ports can run any code here.",)


def _move_options_to_haproxy(config: ServeConfig, *, is_cluster: bool) -> ServeConfig:
    """The config without the options that HAProxy implements instead of the replicas: TLS, and listening beyond loopback.

    HAProxy gets them by the environment. Ray Serve would give them to the replicas: they would speak TLS, which HAProxy
    does not expect, and open their own ports, on which HAProxy's limits do not hold. In a cluster those ports have to be
    open, because the HAProxy of each node reaches the replicas of all.

    Raises:
        SettingsError: a TLS option that HAProxy cannot be given, here or on the other nodes.
    """
    if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") != "1":
        if os.environ.get(front.CERTIFICATE):  # Ray Serve's own proxy would ignore it, and serve plain HTTP
            raise SettingsError(f"{front.CERTIFICATE} needs HAProxy; set http_options.ssl_certfile and ssl_keyfile instead")
        return config
    document = copy.deepcopy(config.document)
    options = document["http_options"]
    if not is_cluster:
        os.environ[front.HOST] = options["host"]
        options["host"] = "127.0.0.1"
    tls = {name for name, value in options.items() if name.startswith("ssl_") and value is not None}
    if tls and is_cluster:  # the other nodes do not read this file, and would continue in plain HTTP
        raise SettingsError(
            f"{config.path}: in a cluster each node needs the certificate: "
            f"set {front.CERTIFICATE} and {front.KEY} for 'run' and for each 'join' instead of the ssl_ options"
        )
    if tls and tls != {"ssl_certfile", "ssl_keyfile"}:
        raise SettingsError(f"{config.path}: HAProxy needs both ssl_certfile and ssl_keyfile, and no other ssl_ option")
    for name, variable in (("ssl_certfile", front.CERTIFICATE), ("ssl_keyfile", front.KEY)):
        if name in tls:
            os.environ[variable] = str(resolve_path(options.pop(name)))
    return config.with_document(document)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _deploy(config: ServeConfig) -> None:
    """Tells Ray Serve what to bring up.

    Raises:
        StartError: it refused.
    """
    import ray
    from ray.serve.scripts import cli

    try:
        with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
            yaml.safe_dump(config.document, file)
            file.flush()
            cli.main(args=["run", "--non-blocking", file.name], standalone_mode=False)
    except ray.exceptions.RayError as error:
        raise StartError(f"Ray Serve did not start: {str(error).strip().splitlines()[-1]}") from error


def _wait_until_ready(url: str) -> None:
    from ray import serve

    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(NotReadyError):
            ask_ready_at(url, _READY_TIMEOUT_S)
            return
        for name, application in serve.status().applications.items():
            if application.status in {"DEPLOY_FAILED", "UNHEALTHY"}:
                raise StartError(f"the application {name} did not start: {application.message}")
        time.sleep(_POLL_INTERVAL_S)
    raise StartError(f"the service did not answer {url}/ready within {_START_TIMEOUT_S} s")
