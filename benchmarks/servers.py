"""The servers that are compared, and how each is started: commands, environment variables, ports.

Every server has the machine to itself, the same model components and the same rows. Rivals have two workers, or one where
that was measured to be faster.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import yaml

from benchmarks.bodies import BentoRows, Format, InferenceV2, RowObjects
from benchmarks.environments import ensure_environment
from benchmarks.load import HOST
from serve_app.config import PROJECT_ROOT
from serve_app.scoring.schema import Schema

__all__ = ["FUSED", "Changes", "Launch", "Ports", "Server", "own_config", "own_server", "rivals"]

_CONFIG = PROJECT_ROOT / "config" / "serve_config.yaml"
_ENVIRONMENT_FILE = PROJECT_ROOT / "config" / "serve.env"
_GUNICORN = "gunicorn --workers 2 --timeout 120 --bind {host}:{port}"
_UVICORN = "uvicorn --workers 2 --host {host} --port {port} --no-access-log"
_FASTEST_UVICORN = f"{_UVICORN} --loop uvloop --http httptools"


@dataclass(frozen=True)
class Ports:
    """The ports of the server that runs: ``http`` and the hundred above it.

    They differ from those of the service's config, so that a service that already runs on this machine is not disturbed.
    """

    http: int

    def environment_of_ray(self) -> dict[str, str]:
        """The ports of Ray Serve other than the one that users call."""
        return {
            "RAY_SERVE_HAPROXY_STATS_PORT": str(self.http + 1),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(self.http + 2),
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(self.http + 10),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(self.http + 49),
            "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(self.http + 50),
            "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(self.http + 89),
        }


@dataclass(frozen=True)
class Launch:
    """A command line, and variables added to the environment."""

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


Launcher = Callable[[Ports, Path], Launch]
"""Returns the launch for given ports and a scratch folder; may install what is missing."""


@dataclass(frozen=True)
class Server:
    """One of the servers that are compared.

    Args:
        name: for options, files and targets.
        title: for people.
        format: of its requests and answers.
        launch: how to start it.
        is_ours: whether the scenarios that only describe this service are run as well.
    """

    name: str
    title: str
    format: Format
    launch: Launcher
    is_ours: bool = False


class Changes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Other settings of this service.

    Args:
        args: merged into the application's ``args``.
        deployments: merged into the entry of each deployment of that name; None removes the entry.
        environment: overrides config/serve.env.
    """

    args: dict[str, Any] = {}
    deployments: dict[str, dict[str, Any] | None] = {}
    environment: dict[str, str] = {}


FUSED = Changes(args={"topology": "fused"}, deployments={"Classifier": None})


def rivals(schema: Schema) -> list[Server]:
    """All servers but this service, for rows of this schema.

    The frameworks are measured twice: as their documentation has it, with scikit-learn's own objects, and with the arrays of
    the hand-written server, which leaves only the framework's own work.
    """
    rows, bento, tensors = RowObjects(), BentoRows(), InferenceV2(schema, "glm")
    return [
        Server(
            "flask",
            "Flask, loads per request",
            rows,
            _rival("flask", _GUNICORN),
        ),
        Server("ray_baseline", "Ray Serve, plain graph", rows, _ray_baseline),
        Server("fastapi_pipeline", "FastAPI + Pipeline", rows, _rival("fastapi_pipeline", _UVICORN)),
        Server("bentoml", "BentoML", bento, _bentoml("Scikit")),
        Server("bentoml_arrays", "BentoML, arrays", bento, _bentoml("Arrays")),
        Server("mlserver", "MLServer", tensors, _mlserver("scikit")),
        Server("mlserver_arrays", "MLServer, arrays", tensors, _mlserver("arrays")),
        Server(
            "fastapi_numpy", "hand-written FastAPI", rows, _rival("fastapi_numpy", f"{_UVICORN} --loop uvloop --http httptools")
        ),
    ]


def _rival(name: str, command: str, application: str = "", **environment: str) -> Launcher:
    """A launcher in the rival's own environment; command and variables may name {host}, {port} and {scratch}."""

    def launch(ports: Ports, scratch: Path) -> Launch:
        values = {"host": HOST, "port": ports.http, "grpc": ports.http + 1, "metrics": ports.http + 2, "scratch": scratch}
        program, *arguments = command.format(**values).split()
        target = application or f"benchmarks.rivals.{name}.server:app"
        variables = {variable: value.format(**values) for variable, value in environment.items()}
        return Launch([str(ensure_environment(name) / program), *arguments, target], variables)

    return launch


def _bentoml(service: str) -> Launcher:
    return _rival(
        "bentoml",
        "bentoml serve --host {host} --port {port}",
        f"benchmarks.rivals.bentoml.server:{service}",
        BENTOML_HOME="{scratch}",
        BENTOML_DO_NOT_TRACK="True",
    )


def _mlserver(model: str) -> Launcher:
    return _rival(
        "mlserver",
        "mlserver start",
        f"benchmarks/rivals/mlserver/{model}",
        MLSERVER_HOST="{host}",
        MLSERVER_DEBUG="false",
        MLSERVER_PARALLEL_WORKERS="0",  # inference in the server's own process, measured to be faster here
        MLSERVER_HTTP_PORT="{port}",
        MLSERVER_GRPC_PORT="{grpc}",
        MLSERVER_METRICS_PORT="{metrics}",
        MLSERVER_METRICS_DIR="{scratch}",
        MLSERVER_ENVIRONMENTS_DIR="{scratch}",
    )


def _ray_baseline(ports: Ports, scratch: Path) -> Launch:
    config = {
        "http_options": {"host": HOST, "port": ports.http},
        "applications": [{"name": "baseline", "route_prefix": "/", "import_path": "benchmarks.baseline_graph:app"}],
    }
    path = scratch / "ray_baseline.yaml"
    path.write_text(yaml.safe_dump(config))
    # Ray Serve's defaults: nothing of config/serve.env, except that no usage statistics are sent.
    environment = {**ports.environment_of_ray(), "RAY_TMPDIR": str(scratch), "RAY_USAGE_STATS_ENABLED": "0"}
    environment["RAY_ADDRESS"] = "local"  # a Ray of its own, even if another one runs on this machine
    return Launch([str(Path(sys.executable).with_name("serve")), "run", str(path)], environment)


def own_server(name: str, title: str, changes: Changes | None = None) -> Server:
    """This service as ``python -m serve_app run`` starts it, with other settings if given."""
    wanted = changes or Changes()

    def launch(ports: Ports, scratch: Path) -> Launch:
        config = own_config(yaml.safe_load(_CONFIG.read_text()), wanted, ports.http)
        path = scratch / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        options = ["--config", str(path), "--env-file", str(_ENVIRONMENT_FILE)]
        # Variables that are already set override the file's.
        environment = {**ports.environment_of_ray(), "RAY_TMPDIR": str(scratch), **wanted.environment}
        return Launch([sys.executable, "-m", "serve_app", "run", *options], environment)

    return Server(name, title, RowObjects(), launch, is_ours=True)


def own_config(config: Mapping[str, Any], changes: Changes, port: int) -> dict[str, Any]:
    """The service's config with other settings, on another port."""
    changed = copy.deepcopy(dict(config))
    changed["http_options"] |= {"host": HOST, "port": port}
    application = changed["applications"][0]
    application["args"] = _merged(application.get("args", {}), changes.args)
    application["deployments"] = [
        _merged(deployment, settings)
        for deployment in application.get("deployments", [])
        if (settings := changes.deployments.get(deployment["name"], {})) is not None
    ]
    return changed


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if nested else value
    return merged
