"""A running service that things are done to, and how much is done."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from numpy.typing import NDArray
from support.serving import Server, direct_replicas, wait_until
from support.steady_load import SteadyLoad

from serve_app.config import PROJECT_ROOT
from serve_app.operations.environment import read_environment

__all__ = ["AT_LENGTH", "ROOM", "SOAK_SECONDS", "Target"]

AT_LENGTH = bool(os.environ.get("FAULTS_AT_LENGTH"))
SOAK_SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))
ROOM = 96  # requests at once: those beyond are refused


@dataclass(frozen=True)
class Target:
    """The service, rows for it, and what each version answers to them."""

    server: Server
    folder: Path
    rows: list[dict[str, Any]]
    expected: dict[str, NDArray[Any]]

    def load(self, **options: Any) -> SteadyLoad:
        """Steady load on it."""
        return SteadyLoad(self.server.url, self.rows, self.expected, **{"clients": 4, "pause_s": 0.01, **options})

    def serve_app(self, command: str, *arguments: object) -> tuple[int, str]:
        """Runs ``python -m serve_app``; its exit code, and what it says of errors."""
        address = ["--address", self.server.ray_address] if command in {"deploy", "rollback"} else []
        return _run(sys.executable, "-m", "serve_app", command, *arguments, *address)

    def scale(self, replicas: int) -> None:
        """Has so many of each deployment by an edit of the config and ``serve deploy``, as docs/models.md has it."""
        config = yaml.safe_load((self.folder / "serve_config.yaml").read_text(encoding="utf-8"))
        for deployment in config["applications"][0]["deployments"]:
            deployment["autoscaling_config"] |= {"min_replicas": replicas, "max_replicas": replicas}
        edited = self.folder / f"{replicas}.yaml"
        edited.write_text(yaml.safe_dump(config), encoding="utf-8")
        code, said = _run(Path(sys.executable).with_name("serve"), "deploy", edited, "--address", self.server.dashboard)
        assert code == 0, said
        wait_until(lambda: self._replicas() == [replicas, replicas], f"{replicas} of each deployment", 90)
        wait_until(lambda: direct_replicas(self.server) == replicas, f"{replicas} behind HAProxy", 60)

    def _replicas(self) -> list[int]:
        return [len(self.processes(f"ServeReplica:class-prediction:{name}")) for name in ("Preprocessor", "Classifier")]

    def processes(self, name: str) -> list[psutil.Process]:
        """Those of its processes whose title has ``name`` in it."""
        found = []
        for process in self.server.process.children(recursive=True):
            try:
                title = f"{process.name()} {' '.join(process.cmdline())}"
            except psutil.NoSuchProcess:
                continue
            if name in title:
                found.append(process)
        return found


def _run(*command: object) -> tuple[int, str]:
    environment = {**os.environ, **read_environment(PROJECT_ROOT / "config" / "serve.env")}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stderr
