"""The guard in front of the application: which paths need an API key, and the scope that the key must have.

Owns the two lists of paths. keyring.py decides whether a key is good.
"""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.api.incoming import Incoming
from serve_app.api.key_file import Scope as KeyScope
from serve_app.api.keyring import Keyring
from serve_app.api.request import route_path
from serve_app.api.responses import error_response, refuse, version_header
from serve_app.api.service import Service
from serve_app.errors import AccessError, KeysError

__all__ = ["KeyGuard"]

# Paths that need no API key: whether the service is up, and how to talk to it. Every other path needs one.
_OPEN = re.compile(r"/health|/ready|/docs|/docs/assets/.*|/openapi\.json")
_SCOPES: dict[str, KeyScope] = {"/predict": "predict", "/model": "model", "/drift": "model"}


class KeyGuard:
    """An ASGI middleware that rejects unauthorised requests before reading their bodies.

    Args:
        app: answers the others.
        keyring: the valid keys.
        service: its model version is named in the rejections, as in all responses.
    """

    def __init__(self, app: ASGIApp, keyring: Keyring, service: Service) -> None:
        self._app = app
        self._keyring = keyring
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, counted against the limits of its key, or rejects it."""
        path = route_path(scope) if scope["type"] == "http" else None
        if path is None or _OPEN.fullmatch(path):
            await self._app(scope, receive, send)
            return
        authorization = [value for name, value in scope["headers"] if name == b"authorization"]
        try:
            account = self._keyring.admit(authorization, _SCOPES.get(path))
        except (AccessError, KeysError) as error:
            status, headers, pieces = error_response(scope, error)
            await refuse(Incoming(receive), send, status, [*headers, version_header(self._service.serving)], pieces)
            return
        with account:
            await self._app(scope, receive, send)
