"""The service in the foreground: starts Ray and Ray Serve on this machine, waits until it answers, stops all of it.

Owns what ``python -m serve_app run`` reads, checks and deploys. Ray's processes, ports and signals are nodes.py's business;
what is deployed, and how, is config/serve_config.yaml's and app.py's; ``serve run config/serve_config.yaml`` deploys the
same without this module.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import requests
import yaml

from serve_app import nodes
from serve_app.components import load_components, verify_files
from serve_app.config import load_settings, resolve_path
from serve_app.errors import SettingsError
from serve_app.nodes import StartError

__all__ = ["Overrides", "Service", "run_service"]

_START_TIMEOUT_S = 120
_POLL_INTERVAL_S = 0.1


class Service(NamedTuple):
    """A service that answers. ``notes`` are sentences worth telling whoever started it."""

    url: str
    dashboard_url: str
    ray_address: str
    notes: tuple[str, ...]


class Overrides(NamedTuple):
    """What differs from the config file in one place where it is served; None leaves what the file says.

    ``components`` is a folder, ``host`` what HTTP listens on, ``min_replicas`` and ``max_replicas`` are of each deployment.
    """

    components: Path | None = None
    host: str | None = None
    min_replicas: int | None = None
    max_replicas: int | None = None


def run_service(  # noqa: PLR0913 - each is a choice of whoever starts it
    config: Path,
    environment: Path,
    announce: Callable[[Service], None],
    overrides: Overrides = Overrides(),  # noqa: B008 - it never changes
    *,
    start_ray: Callable[[], str] = nodes.start_alone,
    drain_timeout_s: float = 30.0,
) -> None:
    """Serves ``config`` until SIGINT, SIGTERM or SIGHUP, answers what is in flight, and leaves no process behind.

    Args:
        config: a Ray Serve config file.
        environment: ``KEY=VALUE`` lines for Ray; a variable that is set already keeps its value.
        announce: called once, when the service answers.
        overrides: what differs from the config file.
        start_ray: starts Ray and gives the address of its dashboard.
        drain_timeout_s: how long the requests that are in flight at the end may take.

    Raises:
        PortInUseError: the HTTP port is taken.
        SettingsError, ComponentsError: the config or the model components cannot be used.
        StartError: Ray Serve did not bring the application up.
        ServiceDiedError: it ended by itself.
    """
    document = _read_config(config, overrides)
    host, port, folders = _check_config(config, document)
    notes = nodes.set_environment(environment)
    nodes.check_port(host, port)
    # Loading components takes seconds, and so does waiting for Ray's processes: both at once.
    with nodes.running(drain_timeout_s) as wait_for_the_end, ThreadPoolExecutor(max_workers=1) as loader:
        loaded = loader.submit(lambda: list(map(load_components, folders)))
        dashboard = start_ray()
        loaded.result()
        url = f"http://{'127.0.0.1' if host in {'0.0.0.0', '::'} else host}:{port}"  # noqa: S104 - compared, not bound
        _deploy(document, url)
        announce(Service(url, f"http://{dashboard}", nodes.address(), notes))
        wait_for_the_end()


def _read_config(config: Path, overrides: Overrides) -> dict[str, Any]:
    try:
        document: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8"))
        if overrides.host is not None:
            document["http_options"]["host"] = overrides.host
        for application in document["applications"]:
            if overrides.components is not None:
                application.setdefault("args", {})["components"] = str(overrides.components.resolve())
            for deployment in application.get("deployments", []):
                replicas = {
                    bound: count
                    for bound in ("min_replicas", "max_replicas")
                    if (count := getattr(overrides, bound)) is not None
                }
                if replicas:
                    deployment.setdefault("autoscaling_config", {}).update(replicas)
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


def _deploy(document: dict[str, Any], url: str) -> None:
    """Has Ray Serve bring the application up, and waits until it answers."""
    import ray
    from ray.serve.scripts import cli

    try:
        with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
            yaml.safe_dump(document, file)
            file.flush()
            cli.main(args=["run", "--non-blocking", file.name], standalone_mode=False)
    except ray.exceptions.RayError as error:
        raise StartError(f"Ray Serve did not start: {str(error).strip().splitlines()[-1]}") from error
    _wait_until_ready(url)


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
