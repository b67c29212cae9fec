"""How the service stops: what is in flight is answered, nothing new is taken, nothing is left."""

from __future__ import annotations

import json
import socket
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from support.serving import Server, wait_until


def connect(server: Server, host: str) -> socket.socket:
    return socket.create_connection((host, urlsplit(server.url).port), timeout=30)


def takes_connections(server: Server, host: str) -> bool:
    try:
        connect(server, host).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.ends_service
def test_a_request_in_flight_is_answered_after_sigterm_when_no_connection_is_taken_any_more(
    server: Server, example: dict[str, Any]
) -> None:
    host = "127.0.0.2"  # the service listens on all addresses; this one the config does not name
    family = server.process.children(recursive=True)
    assert any("raylet" in process.name() for process in family)
    body = json.dumps([example]).encode()
    with closing(connect(server, host)) as client, closing(connect(server, host)) as idle:
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:99])
        idle.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(4096).startswith(b"HTTP/1.1 200 ")

        server.process.terminate()
        wait_until(lambda: not takes_connections(server, host), "a closed port", 30)
        client.sendall(body[99:])

        answer = client.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])[0]["probability_positiveclass"] == 0.36208864382410294
        assert server.process.wait(60) == 0  # the idle connection holds up nothing
    _, alive = psutil.wait_procs(family, timeout=10)
    assert [process.name() for process in alive] == []
    assert server.log.read_text().endswith("Stopped.\n")
