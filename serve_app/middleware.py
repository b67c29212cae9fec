"""The outermost layer of a replica's HTTP server: request headers by which a client could steer Ray Serve.

Ray Serve calls ``ingress_middlewares`` where config/serve.env names it. Without that setting the service answers the same,
only slower, and clients may set these headers themselves. Kept apart from api.py, because Ray Serve's proxies import it too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.middleware import Middleware

__all__ = ["SteeringHeaders", "ingress_middlewares"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_STEERING = frozenset({b"x-request-timeout-seconds", b"x-request-disconnect-disabled"})
# Without this, Ray Serve runs two more tasks per request, to cancel it when its client leaves or it takes too long. Reading
# notices a client that leaves, scoring takes milliseconds, and api.py has its own time limits.
_NO_WATCHING = (b"x-request-disconnect-disabled", b"?1")


class SteeringHeaders:
    """An ASGI middleware that sets them to what this service wants, whatever the client says."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on with our own headers."""
        if scope["type"] == "http":
            scope["headers"] = [header for header in scope["headers"] if header[0] not in _STEERING]
            scope["headers"].append(_NO_WATCHING)
        await self._app(scope, receive, send)


def ingress_middlewares() -> list[Middleware]:
    """What Ray Serve puts around the HTTP server of each replica."""
    return [Middleware(SteeringHeaders)]
