"""What the ASGI scope of a request says: its path within the application, and its id. Reads no body; body.py does."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.types import Scope

__all__ = ["request_id", "route_path"]


def route_path(scope: Scope) -> str:
    """The path without the prefix that the application is mounted at."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def request_id(scope: Scope) -> str:
    """The id that Ray Serve made for the request, or accepted from the client, and returns in a response header; else empty."""
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    for name, value in headers:
        if name == b"x-request-id":
            return value.decode("latin-1")
    return ""
