"""The outermost layer of a replica's HTTP server, around Ray Serve's own.

Owns what clients may say to Ray Serve, and how Ray Serve's own errors look: it removes the request headers that would steer Ray
Serve, and replaces Ray Serve's error bodies (overload, a lost replica) by our JSON. Ray Serve calls ``ingress_middlewares`` if
config/serve.env names it; without that setting the service gives the same answers, only slower, and these two things do not
happen. Imports little, because Ray Serve's proxies import it, too.
"""

from __future__ import annotations

import re

import msgspec
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.errors import ErrorBody

__all__ = ["OuterLayer", "ingress_middlewares"]

# The headers that the service, its documentation page and Ray's tracing read; all others are removed. Ray Serve iterates over
# the headers several times, and some of them steer it: x-request-timeout-seconds, x-session-id, serve_multiplexed_model_id.
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
# Without this, Ray Serve runs two more tasks per request, to cancel it when its client disconnects or a time limit passes. They
# are not needed: reading the body notices the disconnect, scoring takes milliseconds, and predict.py has its own time limits.
_NO_WATCHING = (b"x-request-disconnect-disabled", b"?1")
# Here Ray Serve tells everyone the names and prefixes of its applications. HAProxy refuses this path, too.
_ROUTES = "/-/routes"
_CODES = {400: "bad_request", 404: "not_found", 408: "request_timeout", 503: "unavailable"}
_MESSAGES = {404: "Not Found", 503: "the service is overloaded; try again"}


class OuterLayer:
    """The ASGI middleware.

    Args:
        app: Ray Serve's application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on with the allowed headers only, and any error back as JSON."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"].lower() == _ROUTES:
            await _send_error(404, b"", send)
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
    message = _MESSAGES.get(status, "Ray Serve could not handle the request")
    code = _CODES.get(status, "internal_error")
    body = msgspec.json.encode(ErrorBody.of(code, message, request_id.decode("latin-1")))
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), (b"x-request-id", request_id)]
    if status == 503:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def ingress_middlewares() -> list[Middleware]:
    """The layers that Ray Serve puts around the HTTP server of each replica."""
    return [Middleware(OuterLayer)]
