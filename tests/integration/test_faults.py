"""A real service with small limits: overload, stalled clients, and the death of Ray itself."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack, closing
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from support.applications import ROOM, Applications
from support.serving import Server, wait_for_direct_way


@pytest.fixture(scope="module")
def small_server(applications: Applications) -> Server:
    small = applications.at("small")
    wait_for_direct_way(small, "small")
    return small


def stalled(server: Server) -> socket.socket:
    """A client that announces a body and never sends the rest of it."""
    address = urlsplit(server.url)
    client = socket.create_connection((address.hostname, address.port), timeout=30)
    client.sendall(b"POST %s/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n[" % address.path.encode())
    return client


def test_beyond_its_room_the_service_says_503_in_json_and_stalled_clients_cannot_hold_it(
    small_server: Server, example: dict[str, Any]
) -> None:
    with ExitStack() as clients:
        stallers = [clients.enter_context(closing(stalled(small_server))) for _ in range(4 * ROOM)]
        said = [staller.recv(4096).decode() for staller in stallers]
    refused = [answer for answer in said if answer.startswith("HTTP/1.1 503 ")]
    given_up = [answer for answer in said if answer.startswith("HTTP/1.1 408 ")]
    assert len(refused) + len(given_up) == len(stallers)
    assert len(refused) > 0
    assert len(given_up) >= 4
    for answer in refused:
        head, _, body = answer.partition("\r\n\r\n")
        assert "retry-after: 1" in head
        error = json.loads(body)["error"]
        assert error["code"] == "unavailable"
        assert f"x-request-id: {error['request_id']}" in head
    assert small_server.predict(json.dumps([example])).status_code == 200


@pytest.mark.parametrize("request_id", [b"\xff", b"x" * 5000, b""])
def test_a_request_id_that_is_none_is_replaced(small_server: Server, example: dict[str, Any], request_id: bytes) -> None:
    response = small_server.predict(json.dumps([example]), headers={"x-request-id": request_id})
    assert response.status_code == 200
    assert 10 < len(response.headers["x-request-id"]) < 50


@pytest.mark.ends_service
def test_run_ends_by_itself_when_ray_dies(small_server: Server) -> None:
    family = small_server.process.children(recursive=True)
    (raylet,) = [process for process in family if process.name() == "raylet"]
    raylet.kill()
    assert small_server.process.wait(60) is not None
    _, alive = psutil.wait_procs(family, timeout=10)
    assert [process.name() for process in alive] == []
    assert "raylet, which Ray needs, has died" in small_server.log.read_text()
