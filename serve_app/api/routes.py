"""HTTP: routes, limits on what is read, and which status an error becomes. Below it nothing knows HTTP.

``POST /predict`` is answered by a plain ASGI function, because a framework's routing and dependency machinery costs more
than scoring a row does; everything else goes through Starlette.
"""

from __future__ import annotations

import asyncio
import logging
import re
import traceback
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

from serve_app.api import keyring as keys
from serve_app.api.body_budget import Admission, Held
from serve_app.api.inflate import Inflater
from serve_app.api.openapi import openapi_document
from serve_app.config import Limits, Settings, resolve_path
from serve_app.errors import (
    AccessError,
    BodyTooLargeError,
    BodyTooSlowError,
    FieldProblem,
    ForbiddenError,
    InvalidRowsError,
    KeysError,
    MalformedGzipError,
    MalformedJSONError,
    OverloadedError,
    RequestError,
    ScoringError,
    TooManyRequestsError,
    TooManyRowsError,
    UnauthorizedError,
)
from serve_app.serving.pipeline import Pipeline

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
    MalformedGzipError: 400,
    BodyTooSlowError: 408,
    BodyTooLargeError: 413,
    TooManyRowsError: 413,
}  # every other RequestError: 422
_ACCESS_STATUS: dict[type[AccessError], int] = {UnauthorizedError: 401, ForbiddenError: 403, TooManyRequestsError: 429}
_HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 415: "unsupported_encoding"}
_JSON = (b"content-type", b"application/json")
# What anybody may see where there are keys: whether the service lives, and how to talk to it. All else takes a key.
_OPEN = re.compile(r"/health|/ready|/docs|/docs/assets/.*|/openapi\.json")
_SCOPES: dict[str, keys.Scope] = {"/predict": "predict", "/model": "model", "/drift": "model"}
_REALM = 'Bearer realm="class-prediction"'


class Service(Protocol):
    """What stands behind HTTP: a Preprocessor."""

    settings: Settings
    admission: Admission

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

    async def drift(self) -> dict[str, Any] | None:
        """How far the rows have moved from the training rows; None where that cannot be told."""
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
        held = Held(service.admission)
        body: bytes | bytearray = b""
        try:
            report, explain = _options(scope)
            body = await _read_body(scope, receive, limits, held)
            pipeline = service.choose()  # only now: a version may change while a body arrives
            async with asyncio.timeout(limits.score_timeout_s):
                pieces = await service.predict(body, report_bad_rows=report, explain=explain, pipeline=pipeline)
        except _ClientGoneError:
            return
        except Exception as error:  # noqa: BLE001 - the boundary: whatever happened, the client gets an answer
            status, headers, pieces = _error_response(scope, error)
            await _respond(send, status, [*headers, _version_header(pipeline)], pieces)
            return
        finally:
            del body  # what is not counted any more must not be held either, while the client takes its time over the answer
            held.give_back()
        await _respond(send, 200, [_JSON, _version_header(pipeline)], pieces, limits.send_timeout_s)

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
                message["headers"] = [*message["headers"], _version_header(service.serving)]
            await send(message)

        await rest(scope, receive, send_with_version)

    access = service.settings.access
    if access.keys_file is None:
        return app
    return _guarded(app, keys.Keyring(resolve_path(access.keys_file), access), service)


def _guarded(app: ASGIApp, keyring: keys.Keyring, service: Service) -> ASGIApp:
    """The application behind its keys: of who may not, not even the body is read."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _OPEN.fullmatch(_path(scope)):
            await app(scope, receive, send)
            return
        authorization = [value for name, value in scope["headers"] if name == b"authorization"]
        try:
            account = keyring.admit(authorization, _SCOPES.get(_path(scope)))
        except (AccessError, KeysError) as error:
            status, headers, pieces = _error_response(scope, error)
            await _respond(send, status, [*headers, _version_header(service.serving)], pieces)
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
        return _json_response(msgspec.json.encode(document))

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
    return _json_response(msgspec.json.encode({"model": manifest.name, "version": manifest.version, **found}))


async def _read_body(scope: Scope, receive: Receive, limits: Limits, held: Held) -> bytes | bytearray:
    """The body, inflated, as long as it is neither too large nor too slow; what is beyond the limit is never held.

    Raises:
        BodyTooLargeError: it is, or says that it will be.
        BodyTooSlowError: it is.
        MalformedGzipError: it should be gzip, and is not.
        OverloadedError: there is no room for it beside other requests.
        TimeoutError: it cannot be inflated in time.
        _ClientGoneError: the client disconnected.
    """
    is_gzip = False
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and (len(value) > 18 or int(value) > limits.max_body_bytes):
            raise BodyTooLargeError(limits.max_body_bytes)
        if name == b"content-encoding":
            is_gzip = _says_gzip(value)
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
                held.grow(len(part))
                if body:
                    body += part
                else:
                    body = bytearray(part) if more_body else part
                if len(body) > limits.max_body_bytes:
                    raise BodyTooLargeError(limits.max_body_bytes)
    except TimeoutError:
        raise BodyTooSlowError from None
    return await _inflated(body, limits, held) if is_gzip else body


def _says_gzip(content_encoding: bytes) -> bool:
    encoding = content_encoding.strip().lower()
    if encoding not in {b"", b"identity", b"gzip", b"x-gzip"}:
        raise HTTPException(415, "bodies may be compressed by gzip, once, or not at all", {"accept-encoding": "gzip, identity"})
    return encoding.endswith(b"gzip")


async def _inflated(body: bytes | bytearray, limits: Limits, held: Held) -> bytearray:
    inflater, inflated = Inflater(limits.max_body_bytes), bytearray()
    async with asyncio.timeout(limits.read_timeout_s):
        for piece in inflater.pieces(body):
            if inflated:
                await asyncio.sleep(0)  # a large body: let others work between two pieces
            held.grow(len(piece))
            inflated += piece
    inflater.finish()
    return inflated


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


async def _respond(
    send: Send, status: int, headers: list[tuple[bytes, bytes]], pieces: list[bytes], timeout_s: float | None = None
) -> None:
    """Sends an answer.

    Raises:
        TimeoutError: the client did not take an answer of several pieces in time. It must not keep them, and its place among
            the ongoing requests, for ever.
    """
    length = (b"content-length", b"%d" % sum(map(len, pieces)))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    if len(pieces) == 1:
        await send({"type": "http.response.body", "body": pieces[0]})
        return
    async with asyncio.timeout(timeout_s):
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
    elif isinstance(error, AccessError):
        status, code, message = _ACCESS_STATUS[type(error)], error.code, str(error)
        headers += [*_access_headers(error), (b"connection", b"close")]  # the body will not be read
    elif isinstance(error, OverloadedError):
        status, code, message = 503, "unavailable", f"{error}; try again"
        headers += [(b"retry-after", b"1"), (b"connection", b"close")]  # the rest of the body will not be read
    elif isinstance(error, (ScoringError, TimeoutError, KeysError)):
        status, code, message = 503, "unavailable", "the rows could not be scored just now; try again"
        headers.append((b"retry-after", b"1"))
    elif isinstance(error, HTTPException):
        status, code, message = error.status_code, _HTTP_CODES.get(error.status_code, "bad_request"), error.detail
        headers += [(name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items()]
    else:
        status, code, message = 500, "internal_error", "the service failed; its log holds the cause"
        # Without what the error says: that may quote a row, and rows are nobody's business but the client's.
        where = "".join(traceback.format_tb(error.__traceback__))
        _logger.error("request %s failed: %s\n%s", _request_id(scope), type(error).__name__, where)
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


def _access_headers(error: AccessError) -> list[tuple[bytes, bytes]]:
    """What RFC 6750 (bearer tokens) and RFC 6585 (429) have the client be told."""
    if isinstance(error, UnauthorizedError):
        challenge = f'{_REALM}, error="invalid_token"' if error.is_given else _REALM
        return [(b"www-authenticate", challenge.encode())]
    if isinstance(error, ForbiddenError):
        return [(b"www-authenticate", f'{_REALM}, error="insufficient_scope", scope="{error.scope}"'.encode())]
    if isinstance(error, TooManyRequestsError):
        return [(b"retry-after", b"%d" % error.retry_after_s)]
    return []


def _request_id(scope: Scope) -> str:
    """The id that Ray Serve gave the request, or took from the client, and repeats in the response's headers."""
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    for name, value in headers:
        if name == b"x-request-id":
            return value.decode("latin-1")
    return ""
