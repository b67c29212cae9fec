from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.middleware import Middleware

from serve_app.api.middleware import OuterLayer, ingress_middlewares


def pass_through(scope: dict[str, Any]) -> dict[str, Any]:
    """The scope as the application inside the middleware sees it."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    async def nothing(*_: Any) -> Any: ...

    asyncio.run(OuterLayer(app)(scope, nothing, nothing))
    return dict(seen[0])


def test_clients_cannot_switch_time_limits_or_watching() -> None:
    headers = [(b"host", b"x"), (b"x-request-timeout-seconds", b"0"), (b"x-request-disconnect-disabled", b"?0")]
    assert pass_through({"type": "http", "path": "/", "headers": headers})["headers"] == [
        (b"host", b"x"),
        (b"x-request-disconnect-disabled", b"?1"),
    ]


def test_the_headers_that_nobody_reads_are_left_behind() -> None:
    headers = [(b"accept", b"*/*"), (b"content-length", b"2"), (b"x-anything", b"1"), (b"if-none-match", b"x")]
    kept = pass_through({"type": "http", "path": "/", "headers": headers})["headers"][:-1]
    assert kept == [(b"content-length", b"2"), (b"if-none-match", b"x")]


def test_what_is_no_http_request_passes_as_it_is() -> None:
    assert pass_through({"type": "lifespan"}) == {"type": "lifespan"}


def test_ray_serve_is_given_the_middleware() -> None:
    (middleware,) = ingress_middlewares()
    assert repr(middleware) == repr(Middleware(OuterLayer))


def responses(status: int, content_type: bytes, headers: list[tuple[bytes, bytes]]) -> list[Any]:
    """What a client gets when the layers within answer with a status and a content type."""
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        ids = [(name, value) for name, value in scope["headers"] if name == b"x-request-id"]
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", content_type), *ids]})
        await send({"type": "http.response.body", "body": b"dropped", "more_body": False})

    async def receive() -> Any: ...

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(OuterLayer(app)({"type": "http", "path": "/", "headers": headers}, receive, send))
    return sent


def test_ray_serves_own_errors_become_json_with_the_request_id() -> None:
    start, body = responses(503, b"text/plain", [(b"x-request-id", b"abc")])
    assert start["status"] == 503
    assert dict(start["headers"])[b"retry-after"] == b"1"
    error = json.loads(body["body"])["error"]
    assert (error["code"], error["request_id"]) == ("unavailable", "abc")


def test_ray_serves_list_of_applications_is_not_passed_on() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("it is asked")

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any: ...

    asyncio.run(OuterLayer(app)({"type": "http", "path": "/-/routes", "headers": []}, receive, send))
    assert sent[0]["status"] == 404
    assert json.loads(sent[1]["body"])["error"]["code"] == "not_found"


def test_answers_and_our_own_errors_pass_as_they_are() -> None:
    assert [message.get("body") for message in responses(200, b"text/plain", [])] == [None, b"dropped"]
    assert [message.get("body") for message in responses(422, b"application/json", [])] == [None, b"dropped"]


@pytest.mark.parametrize("request_id", [b"", b"\xff", b"a b", b"x" * 129, b"a\r\nb"])
def test_a_request_id_that_is_none_is_taken_away(request_id: bytes) -> None:
    headers = pass_through({"type": "http", "path": "/", "headers": [(b"x-request-id", request_id)]})["headers"]
    assert b"x-request-id" not in dict(headers)
