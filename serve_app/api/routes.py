"""HTTP: routes, limits on what is read, and which status an error becomes. Below it nothing knows HTTP.

``POST /predict`` is answered by a plain ASGI function, because a framework's routing and dependency machinery costs more
than scoring a row does; everything else goes through Starlette.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs

import fastapi_offline
import msgspec
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.body import ClientGoneError, read_body
from serve_app.api.body_budget import Admission, Held
from serve_app.api.key_file import Scope as KeyScope
from serve_app.api.keyring import Keyring
from serve_app.api.openapi import openapi_document
from serve_app.api.responses import JSON_TYPE, error_response, json_response, respond, version_header
from serve_app.config import Settings, resolve_path
from serve_app.errors import (
    AccessError,
    KeysError,
)
from serve_app.serving.drift_window import WindowDrift
from serve_app.serving.pipeline import Pipeline

__all__ = ["ASGIApp", "build_http_app"]

# What anybody may see where there are keys: whether the service lives, and how to talk to it. All else takes a key.
_OPEN = re.compile(r"/health|/ready|/docs|/docs/assets/.*|/openapi\.json")
_SCOPES: dict[str, KeyScope] = {"/predict": "predict", "/model": "model", "/drift": "model"}


class Service(Protocol):
    """What stands behind HTTP: a Preprocessor."""

    settings: Settings

    @property
    def serving(self) -> Pipeline:
        """The pipeline of the version that serves."""
        ...

    def choose(self) -> Pipeline:
        """The pipeline for one request."""
        ...

    async def predict(
        self, body: bytes | bytearray, *, report_bad_rows: bool, explain: bool, pipeline: Pipeline
    ) -> list[bytes]:
        """The JSON of the answers, in pieces."""
        ...

    async def describe_rollout(self) -> dict[str, Any]:
        """Which versions are used for what, as JSON values."""
        ...

    async def drift(self) -> WindowDrift | None:
        """How far the rows have moved from the training rows; None where that cannot be told."""
        ...

    async def is_ready(self) -> bool:
        """Whether a full round trip gives the right answers."""
        ...


def build_http_app(service: Service, admission: Admission | None = None) -> ASGIApp:
    """The ASGI application of a service.

    Args:
        service: what answers.
        admission: counts the bytes that are held; by default one of this application's own.
    """
    limits = service.settings.limits
    admission = admission or Admission(limits.max_held_bytes)

    async def predict(scope: Scope, receive: Receive, send: Send) -> None:
        pipeline = service.serving
        held = Held(admission)
        body: bytes | bytearray = b""
        try:
            report, explain = _options(scope)
            body = await read_body(scope, receive, limits, held)
            pipeline = service.choose()  # only now: a version may change while a body arrives
            async with asyncio.timeout(limits.score_timeout_s):
                pieces = await service.predict(body, report_bad_rows=report, explain=explain, pipeline=pipeline)
        except ClientGoneError:
            return
        except Exception as error:  # noqa: BLE001 - the boundary: whatever happened, the client gets an answer
            status, headers, pieces = error_response(scope, error)
            await respond(send, status, [*headers, version_header(pipeline)], pieces)
            return
        finally:
            del body  # what is not counted any more must not be held either, while the client takes its time over the answer
            held.give_back()
        await respond(send, 200, [JSON_TYPE, version_header(pipeline)], pieces, limits.send_timeout_s)

    rest = _rest(service)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await rest(scope, receive, send)
            return
        if _path(scope) == "/predict" and scope["method"] == "POST":
            await predict(scope, receive, send)
            return

        async def send_with_version(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], version_header(service.serving)]
            await send(message)

        await rest(scope, receive, send_with_version)

    access = service.settings.access
    if access.keys_file is None:
        return app
    return _guarded(app, Keyring(resolve_path(access.keys_file), access), service)


def _guarded(app: ASGIApp, keyring: Keyring, service: Service) -> ASGIApp:
    """The application behind its keys: of who may not, not even the body is read."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _OPEN.fullmatch(_path(scope)):
            await app(scope, receive, send)
            return
        authorization = [value for name, value in scope["headers"] if name == b"authorization"]
        try:
            account = keyring.admit(authorization, _SCOPES.get(_path(scope)))
        except (AccessError, KeysError) as error:
            status, headers, pieces = error_response(scope, error)
            await respond(send, status, [*headers, version_header(service.serving)], pieces)
            return
        with account:
            await app(scope, receive, send)

    return guarded


def _path(scope: Scope) -> str:
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _rest(service: Service) -> ASGIApp:
    """Every route but the hot one, and the answer to wrong paths and methods."""
    settings = service.settings
    asks_for_keys = settings.access.keys_file is not None

    async def health(_: Request) -> Response:
        return json_response(b'{"status":"live"}')

    async def ready(_: Request) -> Response:
        if await service.is_ready():
            return json_response(b'{"status":"ready"}')
        return json_response(b'{"status":"not ready"}', status=503)

    async def show_model(_: Request) -> Response:
        components = service.serving.components
        manifest = components.manifest
        return json_response(
            msgspec.json.encode(
                {
                    "name": manifest.name,
                    "version": manifest.version,
                    "digest": components.digest,
                    "classes": manifest.classes,
                    "threshold": manifest.threshold,
                    "scored_by": components.scorer.scored_by,
                    "selected_features": manifest.selected_features,
                    "schema": manifest.schema,
                    "training": manifest.training,
                    "rollout": await service.describe_rollout(),
                }
            )
        )

    async def drift(_: Request) -> Response:
        return await _drift_response(service)

    async def openapi(_: Request) -> Response:
        manifest = service.serving.components.manifest
        document = openapi_document(manifest, settings.limits, asks_for_keys=asks_for_keys)
        return json_response(msgspec.json.encode(document))

    async def docs(request: Request) -> Response:
        root = request.scope.get("root_path", "")
        manifest = service.serving.components.manifest
        return get_swagger_ui_html(
            openapi_url=f"{root}/openapi.json",
            title=f"{manifest.name} {manifest.version}",
            swagger_js_url=f"{root}/docs/assets/swagger-ui-bundle.js",
            swagger_css_url=f"{root}/docs/assets/swagger-ui.css",
            swagger_favicon_url=f"{root}/docs/assets/favicon.png",
        )

    async def never_reached(_: Request) -> Response:
        raise AssertionError("POST /predict is answered before routing")

    async def on_error(request: Request, error: Exception) -> Response:
        status, headers, pieces = error_response(request.scope, error)
        response = json_response(b"".join(pieces), status=status)
        response.raw_headers.extend(header for header in headers if header != JSON_TYPE)
        return response

    routes = Starlette(
        routes=[
            Route("/predict", never_reached, methods=["POST"]),  # so that other methods get 405 with Allow
            Route("/health", health),
            Route("/ready", ready),
            Route("/model", show_model),
            Route("/drift", drift),
            Route("/openapi.json", openapi),
            Route("/docs", docs),
            Mount("/docs/assets", StaticFiles(directory=Path(fastapi_offline.__file__).parent / "static")),
        ],
        exception_handlers={HTTPException: on_error, Exception: on_error},
    )
    routes.router.redirect_slashes = False  # a wrong path is a wrong path
    return routes


async def _drift_response(service: Service) -> Response:
    found = await service.drift()
    if found is None:
        raise HTTPException(404, "the manifest of this model does not tell how its training rows were distributed")
    manifest = service.serving.components.manifest
    model = {"model": manifest.name, "version": manifest.version}
    return json_response(msgspec.json.encode(model | msgspec.structs.asdict(found)))


def _options(scope: Scope) -> tuple[bool, bool]:
    """Whether bad rows are reported in their places, and whether answers are explained."""
    query: bytes = scope.get("query_string", b"")
    if not query:
        return False, False
    said = parse_qs(query.decode("latin-1"))
    chosen = said.get("on_error", ["refuse"])[-1]
    if chosen not in {"refuse", "report"}:
        raise HTTPException(422, "on_error is either refuse or report")
    explain = said.get("explain", ["false"])[-1]
    if explain not in {"true", "false"}:
        raise HTTPException(422, "explain is either true or false")
    return chosen == "report", explain == "true"
