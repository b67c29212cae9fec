"""What a container's health check asks, with a server that answers as the service does."""

from __future__ import annotations

import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.certificates import write_certificate
from support.serving import free_port

from serve_app.errors import NotReadyError, SettingsError
from serve_app.operations import haproxy_front as front
from serve_app.operations.ready import ask_ready


class Handler(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/ready" else 404)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *_: Any) -> None:  # noqa: A002 - http.server's name
        del format


class UnreadyHandler(Handler):
    status = 503


@contextmanager
def serving(handler: type[Handler], certificate: tuple[Path, Path] | None = None) -> Iterator[int]:
    """The port of a server on loopback."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def write_config(folder: Path, port: int, **options: str) -> Path:
    path = folder / "config.yaml"
    http_options = {"host": "127.0.0.1", "port": port, **options}
    path.write_text(yaml.safe_dump({"http_options": http_options, "applications": [{"import_path": "a:b"}]}))
    return path


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(front.CERTIFICATE, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")


@pytest.mark.parametrize("host", [None, "127.0.0.1", "0.0.0.0", "localhost"])  # noqa: S104 - a test
def test_a_service_that_is_ready_is_said_to_be_whatever_it_listens_on(tmp_path: Path, host: str | None) -> None:
    with serving(Handler) as port:
        assert ask_ready(write_config(tmp_path, port), host, 10).endswith(f":{port}/ready")


def test_one_that_is_not_ready_does_not_answer_or_speaks_something_else_is_not(tmp_path: Path) -> None:
    with serving(UnreadyHandler) as port, pytest.raises(NotReadyError, match="503"):
        ask_ready(write_config(tmp_path, port), None, 10)
    with pytest.raises(NotReadyError, match="refused"):
        ask_ready(write_config(tmp_path, free_port()), None, 10)
    with serving(Handler, write_certificate(tmp_path)) as port, pytest.raises(NotReadyError, match=f":{port}/ready"):
        ask_ready(write_config(tmp_path, port), None, 10)


@pytest.mark.parametrize("is_by_environment", [False, True])
def test_with_tls_it_is_asked_by_https_and_its_certificate_may_name_another_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_by_environment: bool
) -> None:
    certificate, key = write_certificate(tmp_path)
    options = {} if is_by_environment else {"ssl_certfile": str(certificate), "ssl_keyfile": str(key)}
    if is_by_environment:
        monkeypatch.setenv(front.CERTIFICATE, str(certificate))
    with serving(Handler, (certificate, key)) as port:
        said = ask_ready(write_config(tmp_path, port, **options), "localhost", 10)
    assert said == f"https://localhost:{port}/ready"


@pytest.mark.parametrize("text", ["", "[]", "http_options: 7", "a: [", "http_options: {host: x, port: many}"])
def test_a_config_that_cannot_be_used_is_said_so(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"config\.yaml"):
        ask_ready(path, None, 10)


def test_the_command_exits_by_what_it_was_told_and_loads_nothing_slow(tmp_path: Path) -> None:
    script = (
        "import sys; from serve_app.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: status = end.code\n"
        "print(sorted({'ray', 'numpy', 'requests', 'fastapi', 'sklearn'} & sys.modules.keys())); sys.exit(status)"
    )
    for handler, status, said in ((Handler, 0, ": ready\n[]\n"), (UnreadyHandler, 1, "[]\n")):
        with serving(handler) as port:
            command = [sys.executable, "-c", script, "ready", "--config", str(write_config(tmp_path, port))]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout[-len(said) :]) == (status, said), done.stderr
