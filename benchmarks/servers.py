"""Which servers are compared, and how each is started.

Owns commands, environment variables and ports. Each server gets the same machine to itself, the same model components
and the same rows. Rivals have two workers, or the one that was measured to be faster.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from benchmarks.environments import ensure_environment
from benchmarks.formats import BentoRows, Format, InferenceV2, RowObjects
from serve_app.config import PROJECT_ROOT
from serve_app.scoring.schema import Schema

__all__ = ["FUSED", "SPLIT", "Launch", "OwnVariant", "Ports", "Server", "own_server", "rivals"]

_HOST = "127.0.0.1"
_CONFIG = PROJECT_ROOT / "config" / "serve_config.yaml"
_ENVIRONMENT_FILE = PROJECT_ROOT / "config" / "serve.env"


@dataclass(frozen=True)
class Ports:
    """The ports of the one server that runs at a time: ``http`` and the hundred above it.

    A service that runs on this machine already, on the ports of its config, is not disturbed.
    """

    http: int

    def environment_of_ray(self) -> dict[str, str]:
        """Ports that Ray Serve takes besides the one that users call."""
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
    """How a server is started: a command line and variables on top of the environment."""

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Server:
    """One of those compared.

    Args:
        name: for options, files and targets.
        title: for people.
        format: what it wants to be asked.
        launch: makes the command, given ports and a scratch folder; may install what is missing.
        is_ours: whether the scenarios that only describe this service are run as well.
    """

    name: str
    title: str
    format: Format
    launch: Callable[[Ports, Path], Launch]
    is_ours: bool = False


@dataclass(frozen=True)
class OwnVariant:
    """This service with other settings.

    Args:
        name: for options, files and targets.
        title: for people.
        args: merged into the application's ``args``.
        deployments: merged into the entry of each deployment of that name; None leaves the entry out.
        environment: on top of config/serve.env.
    """

    name: str
    title: str
    args: Mapping[str, Any] = field(default_factory=dict)
    deployments: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


SPLIT = OwnVariant("serve_app", "this service")
FUSED = OwnVariant("serve_app_fused", "this service, fused", args={"topology": "fused"}, deployments={"Classifier": None})


def rivals(schema: Schema) -> list[Server]:
    """All but this service, for rows of this schema.

    Frameworks are measured twice: as their documentation has it, with scikit-learn's own objects, and with the arrays of the
    hand-written server, which leaves only the framework's own work.
    """
    row_objects, tensors = RowObjects(), InferenceV2(schema, "glm")
    return [
        Server("flask", "Flask, loads per request", row_objects, _flask),
        Server("ray_baseline", "Ray Serve, plain graph", row_objects, _ray_baseline),
        Server("fastapi_pipeline", "FastAPI + Pipeline", row_objects, _fastapi_pipeline),
        Server("bentoml", "BentoML", BentoRows(), partial(_bentoml, "Scikit")),
        Server("bentoml_arrays", "BentoML, arrays", BentoRows(), partial(_bentoml, "Arrays")),
        Server("mlserver", "MLServer", tensors, partial(_mlserver, "scikit")),
        Server("mlserver_arrays", "MLServer, arrays", tensors, partial(_mlserver, "arrays")),
        Server("fastapi_numpy", "hand-written FastAPI", row_objects, _fastapi_numpy),
    ]


def own_server(variant: OwnVariant) -> Server:
    """This service as ``python -m serve_app run`` starts it, with the settings of a variant."""

    def launch(ports: Ports, scratch: Path) -> Launch:
        config = own_config(yaml.safe_load(_CONFIG.read_text()), variant, ports.http)
        path = scratch / f"{variant.name}.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        command = [
            sys.executable,
            "-m",
            "serve_app",
            "run",
            "--config",
            str(path),
            "--env-file",
            str(_ENVIRONMENT_FILE),
        ]
        # What is set already wins over the file's values.
        environment = {**ports.environment_of_ray(), "RAY_TMPDIR": str(scratch), **variant.environment}
        return Launch(command, environment)

    return Server(variant.name, variant.title, RowObjects(), launch, is_ours=True)


def own_config(config: Mapping[str, Any], variant: OwnVariant, port: int) -> dict[str, Any]:
    """The service's config with a variant's settings, on another port."""
    changed = copy.deepcopy(dict(config))
    changed["http_options"] |= {"host": _HOST, "port": port}
    application = changed["applications"][0]
    application["args"] = _merged(application.get("args", {}), variant.args)
    deployments = []
    for deployment in application.get("deployments", []):
        settings = variant.deployments.get(deployment["name"], {})
        if settings is not None:
            deployments.append(_merged(deployment, settings))
    application["deployments"] = deployments
    return changed


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if nested else value
    return merged


def _flask(ports: Ports, _: Path) -> Launch:
    gunicorn = ensure_environment("flask") / "gunicorn"
    options = ["--workers", "2", "--timeout", "120", "--bind", f"{_HOST}:{ports.http}"]
    return Launch([str(gunicorn), *options, "benchmarks.rivals.flask.server:app"])


def _fastapi_pipeline(ports: Ports, _: Path) -> Launch:
    uvicorn = ensure_environment("fastapi_pipeline") / "uvicorn"
    options = ["--workers", "2", "--host", _HOST, "--port", str(ports.http), "--no-access-log"]
    return Launch([str(uvicorn), *options, "benchmarks.rivals.fastapi_pipeline.server:app"])


def _fastapi_numpy(ports: Ports, _: Path) -> Launch:
    uvicorn = ensure_environment("fastapi_numpy") / "uvicorn"
    options = ["--workers", "2", "--host", _HOST, "--port", str(ports.http), "--no-access-log"]
    options += ["--loop", "uvloop", "--http", "httptools"]
    return Launch([str(uvicorn), *options, "benchmarks.rivals.fastapi_numpy.server:app"])


def _mlserver(model: str, ports: Ports, scratch: Path) -> Launch:
    mlserver = ensure_environment("mlserver") / "mlserver"
    environment = {
        "MLSERVER_HOST": _HOST,
        "MLSERVER_DEBUG": "false",
        "MLSERVER_PARALLEL_WORKERS": "0",  # inference in the server's own process, for light models; measured: faster here
        "MLSERVER_HTTP_PORT": str(ports.http),
        "MLSERVER_GRPC_PORT": str(ports.http + 1),
        "MLSERVER_METRICS_PORT": str(ports.http + 2),
        "MLSERVER_METRICS_DIR": str(scratch),
        "MLSERVER_ENVIRONMENTS_DIR": str(scratch),
    }
    return Launch([str(mlserver), "start", f"benchmarks/rivals/mlserver/{model}"], environment)


def _bentoml(service: str, ports: Ports, scratch: Path) -> Launch:
    bentoml = ensure_environment("bentoml") / "bentoml"
    options = ["--host", _HOST, "--port", str(ports.http)]
    environment = {"BENTOML_HOME": str(scratch), "BENTOML_DO_NOT_TRACK": "True"}
    return Launch([str(bentoml), "serve", f"benchmarks.rivals.bentoml.server:{service}", *options], environment)


def _ray_baseline(ports: Ports, scratch: Path) -> Launch:
    config = {
        "http_options": {"host": _HOST, "port": ports.http},
        "applications": [{"name": "baseline", "route_prefix": "/", "import_path": "benchmarks.baseline_graph:app"}],
    }
    path = scratch / "ray_baseline.yaml"
    path.write_text(yaml.safe_dump(config))
    # Ray Serve as it comes: nothing of config/serve.env but that nobody is told.
    environment = {**ports.environment_of_ray(), "RAY_TMPDIR": str(scratch), "RAY_USAGE_STATS_ENABLED": "0"}
    environment["RAY_ADDRESS"] = "local"  # a Ray of its own, whatever else runs on this machine
    return Launch([str(Path(sys.executable).with_name("serve")), "run", str(path)], environment)
