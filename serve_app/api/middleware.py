"""The outermost layer of a replica's HTTP server, around Ray Serve's own.

Takes away the request headers by which a client could steer Ray Serve, and gives Ray Serve's own errors (overload, a lost
replica) the same JSON as ours. Ray Serve calls ``ingress_middlewares`` where config/serve.env names it; without that setting
the service answers the same, only slower, and these things stay Ray Serve's. Kept apart from api.py, because Ray Serve's
proxies import it too.
"""

from __future__ import annotations

import json
import re
from typing import Any

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["OuterLayer", "ingress_middlewares"]


# The headers that the service, its documentation pages and Ray's tracing read. Ray Serve looks at each header several times,
# and some steer it: x-request-timeout-seconds, x-session-id, serve_multiplexed_model_id.
_READ = frozenset(
    {
        b"content-length",
        b"content-type",
        b"content-encoding",
        b"authorization",
        b"x-request-id",
        b"host",
        b"range",
        b"if-range",
        b"if-none-match",
        b"if-modified-since",
        b"traceparent",
        b"tracestate",
    }
)
_REQUEST_ID = re.compile(rb"[!-~]{1,128}")
# Without this, Ray Serve runs two more tasks per request, to cancel it when its client leaves or it takes too long. Reading
# notices a client that leaves, scoring takes milliseconds, and api.py has its own time limits.
_NO_WATCHING = (b"x-request-disconnect-disabled", b"?1")
_CODES = {400: "bad_request", 404: "not_found", 408: "request_timeout", 503: "unavailable"}


class OuterLayer:
    """The ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on with headers of our own choice, and the response back as JSON."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["headers"] = [
            header
            for header in scope["headers"]
            if header[0] in _READ and (header[0] != b"x-request-id" or _REQUEST_ID.fullmatch(header[1]))
        ]
        scope["headers"].append(_NO_WATCHING)
        is_replaced = False

        async def send_json(message: Message) -> None:
            nonlocal is_replaced
            if message["type"] == "http.response.start" and message["status"] >= 400:
                headers = dict(message["headers"])
                if headers.get(b"content-type") != b"application/json":
                    is_replaced = True
                    await _send_error(message["status"], headers.get(b"x-request-id", b""), send)
            if not is_replaced:
                await send(message)

        await self._app(scope, receive, send_json)


async def _send_error(status: int, request_id: bytes, send: Send) -> None:
    error: dict[str, Any] = {
        "code": _CODES.get(status, "internal_error"),
        "message": "the service is overloaded; try again" if status == 503 else "Ray Serve could not handle the request",
        "request_id": request_id.decode("latin-1"),
        "rows": [],
        "bad_rows": 0,
    }
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), (b"x-request-id", request_id)]
    if status == 503:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def ingress_middlewares() -> list[Middleware]:
    """What Ray Serve puts around the HTTP server of each replica."""
    return [Middleware(OuterLayer)]
