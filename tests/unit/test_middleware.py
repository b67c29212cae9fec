from __future__ import annotations

import asyncio
from typing import Any

from starlette.middleware import Middleware

from serve_app.middleware import SteeringHeaders, ingress_middlewares


def pass_through(scope: dict[str, Any]) -> dict[str, Any]:
    """The scope as the application behind the middleware sees it."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    async def nothing(*_: Any) -> Any: ...

    asyncio.run(SteeringHeaders(app)(scope, nothing, nothing))
    return dict(seen[0])


def test_clients_cannot_switch_time_limits_or_watching() -> None:
    headers = [(b"host", b"x"), (b"x-request-timeout-seconds", b"0"), (b"x-request-disconnect-disabled", b"?0")]
    assert pass_through({"type": "http", "headers": headers})["headers"] == [
        (b"host", b"x"),
        (b"x-request-disconnect-disabled", b"?1"),
    ]


def test_what_is_no_http_request_passes_as_it_is() -> None:
    assert pass_through({"type": "lifespan"}) == {"type": "lifespan"}


def test_ray_serve_is_given_the_middleware() -> None:
    (middleware,) = ingress_middlewares()
    assert repr(middleware) == repr(Middleware(SteeringHeaders))
