"""The HTTP application: its route table, and how it is put together from the hot path, the information pages and the key guard.

``POST /predict`` bypasses Starlette's routing (predict.py says why); every other request goes through it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import fastapi_offline
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.access import KeyGuard
from serve_app.api.body_budget import BodyBudget
from serve_app.api.information import Information
from serve_app.api.keyring import Keyring
from serve_app.api.predict import PredictEndpoint
from serve_app.api.request import route_path
from serve_app.api.responses import JSON_TYPE, error_response, json_response, version_header
from serve_app.api.service import Service
from serve_app.config import resolve_path

__all__ = ["ASGIApp", "build_http_app"]


def build_http_app(service: Service, budget: BodyBudget | None = None) -> ASGIApp:
    """The ASGI application of a service, with the key guard if the settings name a file of keys.

    Args:
        service: scores rows and reports on itself.
        budget: limits the bytes of all bodies; by default as the settings say.

    Raises:
        KeysError: the file of keys cannot be used.
    """
    app = _HTTPApp(service, budget or BodyBudget(service.settings.limits.max_held_bytes))
    access = service.settings.access
    if access.keys_file is None:
        return app
    return KeyGuard(app, Keyring(resolve_path(access.keys_file), access), service)


class _HTTPApp:
    """Sends ``POST /predict`` to its endpoint and everything else to the other routes; all responses name the model version."""

    def __init__(self, service: Service, budget: BodyBudget) -> None:
        self._service = service
        self._predict = PredictEndpoint(service, budget)
        self._others = _other_routes(Information(service))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and route_path(scope) == "/predict":
            await self._predict(scope, receive, send)
        else:
            await self._others(scope, receive, partial(self._send_with_version, send))

    async def _send_with_version(self, send: Send, message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], version_header(self._service.serving)]
        await send(message)


def _other_routes(information: Information) -> ASGIApp:
    """Every route but ``POST /predict``, and the responses to unknown paths and wrong methods."""
    routes = Starlette(
        routes=[
            Route("/predict", _never_reached, methods=["POST"]),  # so that other methods get 405 with Allow
            Route("/health", information.health),
            Route("/ready", information.ready),
            Route("/model", information.model),
            Route("/drift", information.drift),
            Route("/openapi.json", information.openapi),
            Route("/docs", information.docs),
            Mount("/docs/assets", StaticFiles(directory=Path(fastapi_offline.__file__).parent / "static")),
        ],
        exception_handlers={HTTPException: _on_error, Exception: _on_error},
    )
    routes.router.redirect_slashes = False  # /health/ is an unknown path, not another name of /health
    return routes


async def _never_reached(_: Request) -> Response:
    raise AssertionError("POST /predict is answered before routing")


async def _on_error(request: Request, error: Exception) -> Response:
    status, headers, pieces = error_response(request.scope, error)
    response = json_response(b"".join(pieces), status=status)
    response.raw_headers.extend(header for header in headers if header != JSON_TYPE)
    return response
