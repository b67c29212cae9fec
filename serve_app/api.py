"""HTTP: routes, limits on what is read, and which status an error becomes. Below it nothing knows HTTP.

``POST /predict`` is answered by a plain ASGI function, because a framework's routing and dependency machinery costs more
than scoring a row does; everything else goes through Starlette.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
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

from serve_app.config import Limits, Settings
from serve_app.errors import (
    BodyTooLargeError,
    BodyTooSlowError,
    FieldProblem,
    InvalidRowsError,
    MalformedJSONError,
    RequestError,
    ScoringError,
    TooManyRowsError,
)
from serve_app.openapi import openapi_document
from serve_app.pipeline import Pipeline

__all__ = ["build_http_app"]

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_LISTED_PROBLEMS = 100

_logger = logging.getLogger("ray.serve")  # the logger whose records Ray Serve keeps with the replica's
_STATUS: dict[type[RequestError], int] = {
    MalformedJSONError: 400,
    BodyTooSlowError: 408,
    BodyTooLargeError: 413,
    TooManyRowsError: 413,
}  # every other RequestError: 422
_HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 415: "unsupported_encoding"}
_JSON = (b"content-type", b"application/json")


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

    async def predict(self, body: bytes | bytearray, *, report_bad_rows: bool, pipeline: Pipeline) -> list[bytes]:
        """The JSON of the answers, in pieces."""
        ...

    async def describe_rollout(self) -> dict[str, Any]:
        """Which versions are used for what, as JSON values."""
        ...

    async def is_ready(self) -> bool:
        """Whether a full round trip gives the right answers."""
        ...


class _ClientGoneError(Exception):
    """The client went away before its request was whole; there is nobody to answer."""


def build_http_app(service: Service) -> ASGIApp:
    """The ASGI application of a service."""
    limits = service.settings.limits

    async def predict(scope: Scope, receive: Receive, send: Send) -> None:
        pipeline = service.serving
        try:
            report = _reports_bad_rows(scope)
            body = await _read_body(scope, receive, limits)
            pipeline = service.choose()  # only now: a version may change while a body arrives
            async with asyncio.timeout(limits.score_timeout_s):
                pieces = await service.predict(body, report_bad_rows=report, pipeline=pipeline)
        except _ClientGoneError:
            return
        except Exception as error:  # noqa: BLE001 - the boundary: whatever happened, the client gets an answer
            status, headers, pieces = _error_response(scope, error)
            await _respond(send, status, [*headers, _version_header(pipeline)], pieces)
            return
        await _respond(send, 200, [_JSON, _version_header(pipeline)], pieces)

    rest = _rest(service)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await rest(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path == "/predict" and scope["method"] == "POST":
            await predict(scope, receive, send)
            return

        async def send_with_version(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], _version_header(service.serving)]
            await send(message)

        await rest(scope, receive, send_with_version)

    return app


def _rest(service: Service) -> ASGIApp:
    """Every route but the hot one, and the answer to wrong paths and methods."""

    async def health(_: Request) -> Response:
        return _json_response(b'{"status":"live"}')

    async def ready(_: Request) -> Response:
        if await service.is_ready():
            return _json_response(b'{"status":"ready"}')
        return _json_response(b'{"status":"not ready"}', status=503)

    async def show_model(_: Request) -> Response:
        components = service.serving.components
        manifest = components.manifest
        return _json_response(
            msgspec.json.encode(
                {
                    "name": manifest.name,
                    "version": manifest.version,
                    "digest": components.digest,
                    "classes": manifest.classes,
                    "threshold": manifest.threshold,
                    "selected_features": manifest.selected_features,
                    "schema": manifest.schema,
                    "training": manifest.training,
                    "rollout": await service.describe_rollout(),
                }
            )
        )

    async def openapi(_: Request) -> Response:
        manifest = service.serving.components.manifest
        return _json_response(msgspec.json.encode(openapi_document(manifest, service.settings.limits)))

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
        status, headers, pieces = _error_response(request.scope, error)
        response = _json_response(b"".join(pieces), status=status)
        response.raw_headers.extend(header for header in headers if header != _JSON)
        return response

    routes = Starlette(
        routes=[
            Route("/predict", never_reached, methods=["POST"]),  # so that other methods get 405 with Allow
            Route("/health", health),
            Route("/ready", ready),
            Route("/model", show_model),
            Route("/openapi.json", openapi),
            Route("/docs", docs),
            Mount("/docs/assets", StaticFiles(directory=Path(fastapi_offline.__file__).parent / "static")),
        ],
        exception_handlers={HTTPException: on_error, Exception: on_error},
    )
    routes.router.redirect_slashes = False  # a wrong path is a wrong path
    return routes


async def _read_body(scope: Scope, receive: Receive, limits: Limits) -> bytes | bytearray:
    """The body, as long as it is neither too large nor too slow; what is beyond the limit is never held.

    Raises:
        BodyTooLargeError: it is, or says that it will be.
        BodyTooSlowError: it is.
        _ClientGoneError: the client disconnected.
    """
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limits.max_body_bytes:
            raise BodyTooLargeError(limits.max_body_bytes)
        if name == b"content-encoding" and value.strip().lower() not in {b"", b"identity"}:
            raise HTTPException(415, "compressed bodies are not accepted")
    body: bytes | bytearray = b""
    more_body = True
    try:
        now = asyncio.get_running_loop().time
        end = now() + limits.read_timeout_s
        async with asyncio.timeout(limits.idle_timeout_s) as timeout:
            while more_body:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _ClientGoneError
                more_body = message.get("more_body", False)
                if more_body:
                    timeout.reschedule(min(now() + limits.idle_timeout_s, end))
                part = message.get("body", b"")
                if body:
                    body += part
                else:
                    body = bytearray(part) if more_body else part
                if len(body) > limits.max_body_bytes:
                    raise BodyTooLargeError(limits.max_body_bytes)
    except TimeoutError:
        raise BodyTooSlowError from None
    return body


def _reports_bad_rows(scope: Scope) -> bool:
    query: bytes = scope.get("query_string", b"")
    if not query:
        return False
    chosen = parse_qs(query.decode("latin-1")).get("on_error", ["refuse"])[-1]
    if chosen not in {"refuse", "report"}:
        raise HTTPException(422, "on_error is either refuse or report")
    return chosen == "report"


async def _respond(send: Send, status: int, headers: list[tuple[bytes, bytes]], pieces: list[bytes]) -> None:
    length = (b"content-length", b"%d" % sum(map(len, pieces)))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    for piece in pieces[:-1]:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": pieces[-1]})


def _version_header(pipeline: Pipeline) -> tuple[bytes, bytes]:
    return b"x-model-version", pipeline.components.manifest.version.encode()


def _json_response(content: bytes, status: int = 200) -> Response:
    return Response(content, status_code=status, media_type="application/json")


def _error_response(scope: Scope, error: Exception) -> tuple[int, list[tuple[bytes, bytes]], list[bytes]]:
    """Status, headers and body of an error."""
    headers = [_JSON]
    problems: list[FieldProblem] = []
    if isinstance(error, RequestError):
        status = _STATUS.get(type(error), 422)
        code, message = error.code, str(error)
        if isinstance(error, InvalidRowsError):
            problems = list(error.problems)
            code = problems[0].code
        if status in {408, 413}:
            headers.append((b"connection", b"close"))  # the rest of the body will not be read
    elif isinstance(error, (ScoringError, TimeoutError)):
        status, code, message = 503, "unavailable", "the rows could not be scored just now; try again"
        headers.append((b"retry-after", b"1"))
    elif isinstance(error, HTTPException):
        status, code, message = error.status_code, _HTTP_CODES.get(error.status_code, "bad_request"), error.detail
        headers += [(name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items()]
    else:
        status, code, message = 500, "internal_error", "the service failed; its log holds the cause"
        _logger.error("request %s failed", _request_id(scope), exc_info=error)
    body = {
        "error": {
            "code": code,
            "message": message,
            "request_id": _request_id(scope),
            "rows": problems[:MAX_LISTED_PROBLEMS],
            "bad_rows": len({problem.row for problem in problems}),
        }
    }
    return status, headers, [msgspec.json.encode(body)]


def _request_id(scope: Scope) -> str:
    """The id that Ray Serve gave the request, or took from the client, and repeats in the response's headers."""
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    for name, value in headers:
        if name == b"x-request-id":
            return value.decode("latin-1")
    return ""
