"""The image and the compose file of this project, run for real by Docker."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from support.serving import free_port, wait_until

from serve_app.components.compiled import Components
from serve_app.components.manifest import Draft
from serve_app.components.saving import save_components
from serve_app.config import PROJECT_ROOT

__all__ = ["IMAGE", "Compose", "docker", "inspect", "kill_main_process", "mountable", "provide_image"]

IMAGE = "class-prediction"
STAND_INS = PROJECT_ROOT / "tests" / "docker" / "stand_ins"
EXAMPLE = PROJECT_ROOT / "data" / "reference" / "example.json"
EXPECTED = 0.36208864382410294
PULL_TIMEOUT_S = 120


def docker(
    *arguments: str | Path, timeout_s: float = 600, environment: Mapping[str, str] | None = None, stdin: str | None = None
) -> str:
    """What a docker command prints; fails with what it says when it fails."""
    done = subprocess.run(
        ["docker", *map(str, arguments)],
        cwd=PROJECT_ROOT,
        env={**os.environ, **(environment or {})},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, f"docker {' '.join(map(str, arguments))}:\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def inspect(name: str) -> dict[str, Any]:
    """All that Docker knows of a container or an image."""
    (found,) = json.loads(docker("inspect", name))
    return dict(found)


def kill_main_process(container: str) -> None:
    """Ends our process under the container's init at once: unlike ``docker kill``, that is a crash, after which it restarts."""
    docker("exec", container, "sh", "-c", "kill -9 $(cat /proc/1/task/1/children)")


def provide_image(public: str, stand_in: str) -> str | None:
    """``public``, pulled if need be; where it cannot be had, an image of Debian's package in its place; None without one."""
    if docker("image", "ls", "-q", public):
        return public
    try:
        docker("pull", "-q", public, timeout_s=PULL_TIMEOUT_S)
    except (AssertionError, subprocess.TimeoutExpired):
        if not (STAND_INS / stand_in).exists():
            return None
        tag = f"{IMAGE}-test-{stand_in}"
        docker("build", "-q", "-t", tag, STAND_INS / stand_in)
        return tag
    return public


@contextlib.contextmanager
def mountable(draft: Draft) -> Iterator[tuple[Path, Components]]:
    """A folder of components that the image's user, too, may read, and the components."""
    with tempfile.TemporaryDirectory(prefix="class-prediction-") as folder:
        path = Path(folder) / "model"
        components = save_components(path, draft)
        for entry in (path.parent, path, *path.iterdir()):
            entry.chmod(0o755)
        yield path, components


@dataclass
class Compose:
    """One project of docker-compose.yaml on free ports, so that it is in nobody's way."""

    project: str
    images: Mapping[str, str]
    settings: Mapping[str, str] = field(default_factory=dict)
    profiles: Sequence[str] = ()

    def __post_init__(self) -> None:
        names = ("HTTP_PORT", "DASHBOARD_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT")
        self.ports = {name: str(free_port()) for name in names}
        self.url = f"http://127.0.0.1:{self.ports['HTTP_PORT']}"
        self.prometheus_url = f"http://127.0.0.1:{self.ports['PROMETHEUS_PORT']}"

    def __call__(self, *arguments: str, timeout_s: float = 600) -> str:
        """What ``docker compose`` prints with these arguments."""
        profiles = [f"--profile={profile}" for profile in self.profiles]
        environment = {**self.ports, **self.images, **self.settings}
        return docker("compose", "-p", self.project, *profiles, *arguments, timeout_s=timeout_s, environment=environment)

    def container(self, service: str, number: int = 1) -> str:
        """The name of a service's container."""
        return f"{self.project}-{service}-{number}"

    def address(self, service: str, number: int = 1) -> str:
        """Where the other nodes find a container."""
        networks = inspect(self.container(service, number))["NetworkSettings"]["Networks"]
        return str(networks[f"{self.project}_ray"]["IPAddress"])

    def predict(self, body: bytes, timeout_s: float = 30) -> requests.Response:
        """One call of POST /predict, through the entry."""
        return requests.post(f"{self.url}/predict", data=body, timeout=timeout_s)

    def is_healthy(self, container: str) -> bool:
        """Whether a container's health check passes."""
        return bool(inspect(container)["State"]["Health"]["Status"] == "healthy")

    def in_head(self, *command: str) -> str:
        """What a command prints in the head's container."""
        return self("exec", "-T", "head", *command)

    def alive_nodes(self) -> int:
        """How many nodes Ray counts, the head among them."""
        _, _, listed = self.in_head("ray", "status").partition("Active:")  # of which there is none in its first seconds
        active, _, _ = listed.partition("Pending:")
        return sum(line.strip().startswith("1 node_") for line in active.splitlines())

    def can_deploy(self) -> bool:
        """Whether a roll-out succeeds: of the model that serves, so that nothing changes."""
        try:
            self.in_head("python", "-m", "serve_app", "deploy", "model_components")
        except AssertionError:
            return False
        return True

    def is_whole(self, nodes: int) -> bool:
        """Whether so many nodes are there and the example gets its answer."""
        try:
            return self.alive_nodes() == nodes and self.predict(EXAMPLE.read_bytes()).status_code == 200
        except (AssertionError, requests.RequestException):
            return False

    def wait_until_whole(self, nodes: int, timeout_s: float = 180) -> None:
        """Returns when ``is_whole``."""
        wait_until(lambda: self.is_whole(nodes), f"{nodes} nodes that answer", timeout_s)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that Prometheus gives for an expression; its value at the end of each."""
        answer = requests.get(f"{self.prometheus_url}/api/v1/query", params={"query": expression}, timeout=30).json()
        assert answer["status"] == "success", f"{expression}: {answer}"
        return list(answer["data"]["result"])
