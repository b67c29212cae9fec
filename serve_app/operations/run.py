"""The service in the foreground: starts Ray and Ray Serve on this machine, waits until it answers, stops all of it.

Owns what ``python -m serve_app run`` reads, checks and deploys. Ray's processes, ports and signals are nodes.py's business;
what is deployed, and how, is config/serve_config.yaml's and app.py's; ``serve run config/serve_config.yaml`` deploys the
same without this module.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import requests
import yaml
from urllib3.exceptions import InsecureRequestWarning

from serve_app.api.key_file import read_keys
from serve_app.components.loading import load_served_components, trust_of, verify_files
from serve_app.config import Settings, load_settings, resolve_path
from serve_app.errors import SettingsError, StartError
from serve_app.operations import environment as environments
from serve_app.operations import haproxy_front as front
from serve_app.operations import ray_processes as nodes

__all__ = ["Overrides", "Service", "run_service"]

_START_TIMEOUT_S = 120
_POLL_INTERVAL_S = 0.1


class Service(NamedTuple):
    """A service that answers. ``notes`` are sentences worth telling whoever started it, ``warnings`` worth telling loudly."""

    url: str
    dashboard_url: str
    ray_address: str
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


class Overrides(NamedTuple):
    """What differs from the config file in one place where it is served; None leaves what the file says.

    ``components`` is a folder, ``host`` what HTTP listens on, ``min_replicas`` and ``max_replicas`` are of each deployment,
    ``keys_file`` holds the API keys.
    """

    components: Path | None = None
    host: str | None = None
    min_replicas: int | None = None
    max_replicas: int | None = None
    keys_file: Path | None = None
    max_replicas_per_node: int | None = None


def run_service(  # noqa: PLR0913 - each is a choice of whoever starts it
    config: Path,
    environment: Path,
    announce: Callable[[Service], None],
    overrides: Overrides = Overrides(),  # noqa: B008 - it never changes
    *,
    start_ray: Callable[[], str] = nodes.start_alone,
    is_cluster: bool = False,
    drain_timeout_s: float = 30.0,
) -> None:
    """Serves ``config`` until SIGINT, SIGTERM or SIGHUP, answers what is in flight, and leaves no process behind.

    Args:
        config: a Ray Serve config file.
        environment: ``KEY=VALUE`` lines for Ray; a variable that is set already keeps its value.
        announce: called once, when the service answers.
        overrides: what differs from the config file.
        start_ray: starts Ray and gives the address of its dashboard.
        is_cluster: whether replicas run on other machines than this too.
        drain_timeout_s: how long the requests that are in flight at the end may take.

    Raises:
        PortInUseError: the HTTP port is taken.
        SettingsError, ComponentsError, KeysError: the config, the model components or the keys file cannot be used.
        StartError: Ray Serve did not bring the application up.
        ServiceDiedError: it ended by itself.
    """
    document = _read_config(config, overrides)
    host, port, applications = _check_config(config, document)
    access_warnings = _check_access(host, applications)
    notes = environments.set_environment(environment)
    environments.check_port(host, port)
    access_warnings += _check_ray_token()
    is_https = _hand_to_front(config, document, is_cluster=is_cluster)
    # Loading components takes seconds, and so does waiting for Ray's processes: both at once.
    with nodes.running(drain_timeout_s) as wait_for_the_end, ThreadPoolExecutor(max_workers=1) as loader:
        loaded = loader.submit(lambda: list(map(load_served_components, applications)))
        dashboard = start_ray()
        loaded.result()
        url = f"http{'s' if is_https else ''}://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"  # noqa: S104 - compared, not bound
        _deploy(document, url)
        announce(Service(url, f"http://{dashboard}", nodes.address(), notes, access_warnings))
        wait_for_the_end()


def _read_config(config: Path, overrides: Overrides) -> dict[str, Any]:
    try:
        document: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8"))
        if overrides.host is not None:
            document["http_options"]["host"] = overrides.host
        for application in document["applications"]:
            if overrides.components is not None:
                application.setdefault("args", {})["components"] = str(overrides.components.resolve())
            if overrides.keys_file is not None:
                access = application.setdefault("args", {}).setdefault("access", {})
                access["keys_file"] = str(overrides.keys_file.resolve())
            for deployment in application.get("deployments", []):
                replicas = {
                    bound: count
                    for bound in ("min_replicas", "max_replicas")
                    if (count := getattr(overrides, bound)) is not None
                }
                if overrides.max_replicas_per_node is not None:
                    deployment["max_replicas_per_node"] = overrides.max_replicas_per_node
                if replicas:
                    deployment.setdefault("autoscaling_config", {}).update(replicas)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, LookupError, TypeError, AttributeError) as error:
        raise SettingsError(f"{config} cannot be used: {type(error).__name__}: {error}") from error
    return document


def _check_config(config: Path, document: dict[str, Any]) -> tuple[str, int, list[Settings]]:
    """Host, port and the applications' settings of a config that can be used: better told now than by a replica."""
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
    checked = []
    for args, deployments in applications:
        settings = load_settings(args)
        if settings.topology == "fused" and "Classifier" in deployments:
            raise SettingsError(f"{config}: the fused topology has no Classifier; take it out of deployments")
        verify_files(resolve_path(settings.components), trust_of(settings))
        checked.append(settings)
    return host, port, checked


def _check_access(host: str, applications: list[Settings]) -> tuple[str, ...]:
    """Warnings about who may ask.

    Raises:
        KeysError: a keys file that the config names cannot be used.
    """
    is_open = False
    for settings in applications:
        if settings.access.keys_file is None:
            is_open = True
        else:
            read_keys(resolve_path(settings.access.keys_file))
    if not is_open or _is_loopback(host):
        return ()
    warning = (
        f"WARNING: {host} lets other machines in, and there are no API keys: whoever reaches the port may use the service. "
        "`python -m serve_app keys make` makes a key, `run --keys` or access.keys_file in the config asks for it."
    )
    return (warning,)


def _check_ray_token() -> tuple[str, ...]:
    """A warning where somebody has switched Ray's token off; config/serve.env has it on."""
    mode = os.environ.get("RAY_AUTH_MODE", "")
    if mode.lower() == "token":
        return ()
    return (f"WARNING: RAY_AUTH_MODE is {mode!r}, not token: whoever reaches one of Ray's ports may run any code here.",)


def _hand_to_front(config: Path, document: dict[str, Any], *, is_cluster: bool) -> bool:
    """Has HAProxy do what Ray Serve's own HTTP servers then need not: TLS, and listening beyond loopback. Whether it is TLS.

    Ray Serve would give these options to the replicas: they would speak TLS, which HAProxy does not expect of them, and open
    their own ports, on which HAProxy's limits do not hold. In a cluster those have to be open: HAProxy is on every node.

    Raises:
        SettingsError: an option of Ray Serve's that HAProxy is not given, here or on the other nodes.
    """
    options = document["http_options"]
    tls = {name: value for name, value in options.items() if name.startswith("ssl_") and value is not None}
    if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") != "1":
        return bool(tls)
    if not is_cluster:
        os.environ[front.HOST] = str(options["host"])
        options["host"] = "127.0.0.1"
    if not tls:
        return bool(os.environ.get(front.CERTIFICATE))
    if is_cluster:  # the other nodes do not read this file, and would go on in plain HTTP
        raise SettingsError(
            f"{config}: in a cluster each node needs the certificate: "
            f"set {front.CERTIFICATE} and {front.KEY} for 'run' and for each 'join', in the place of the ssl_ options"
        )
    if tls.keys() != {"ssl_certfile", "ssl_keyfile"}:
        raise SettingsError(f"{config}: HAProxy takes ssl_certfile and ssl_keyfile, both, and no other ssl_ option")
    for name, variable in (("ssl_certfile", front.CERTIFICATE), ("ssl_keyfile", front.KEY)):
        os.environ[variable] = str(resolve_path(options.pop(name)))
    return True


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


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
            # It is our own port: whether the certificate is in order for others is not what is asked here.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", InsecureRequestWarning)
                answer = requests.get(f"{url}/ready", timeout=10, verify=False)  # noqa: S501
            if answer.status_code == requests.codes.ok:
                return
        for name, application in serve.status().applications.items():
            if application.status in {"DEPLOY_FAILED", "UNHEALTHY"}:
                raise StartError(f"the application {name} did not start: {application.message}")
        time.sleep(_POLL_INTERVAL_S)
    raise StartError(f"the service did not answer {url}/ready within {_START_TIMEOUT_S} s")
