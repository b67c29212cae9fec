"""Responses: the HTTP status, headers and body of each error, and how a response is sent.

Owns the table of errors and statuses. Knows no route; predict.py, access.py and routes.py ask it for the response to an error.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope, Send

from serve_app.api.incoming import Incoming
from serve_app.api.request import request_id
from serve_app.errors import (
    AccessError,
    BodyTooLargeError,
    BodyTooSlowError,
    ErrorBody,
    FieldProblem,
    ForbiddenError,
    InvalidRowsError,
    KeysError,
    MalformedGzipError,
    MalformedJSONError,
    NotScorableError,
    OverloadedError,
    RequestError,
    ScoringError,
    TooManyRequestsError,
    TooManyRowsError,
    UnauthorizedError,
)
from serve_app.serving.pipeline import Pipeline

__all__ = ["JSON_TYPE", "error_response", "json_response", "refuse", "respond", "version_header"]

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
Header = tuple[bytes, bytes]
JSON_TYPE: Header = (b"content-type", b"application/json")
_CLOSE: Header = (b"connection", b"close")  # the rest of the body will not be read
_RETRY: Header = (b"retry-after", b"1")
_REALM = 'Bearer realm="class-prediction"'


class _Refusal(NamedTuple):
    status: int
    code: str
    message: str
    headers: tuple[Header, ...] = ()
    problems: Sequence[FieldProblem] = ()


async def respond(
    send: Send, status: int, headers: Sequence[Header], pieces: list[bytes], timeout_s: float | None = None
) -> None:
    """Sends a response.

    Args:
        send: of the ASGI application.
        status: of HTTP.
        headers: all but the length.
        pieces: the body.
        timeout_s: how long the client has to read a response of several pieces, in seconds; None is for ever.

    Raises:
        TimeoutError: the client did not read it in time. Otherwise one that stops reading would keep the memory of its answers,
            and its place among the concurrent requests.
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


async def refuse(incoming: Incoming, send: Send, status: int, headers: Sequence[Header], pieces: Sequence[bytes]) -> None:
    """Sends a response to a request whose body may not have been read, and drops some of that body before the response ends.

    The client has all of the response at once; only the end of the connection waits.
    """
    content = b"".join(pieces)
    length = (b"content-length", b"%d" % len(content))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": content, "more_body": True})
    await incoming.drain()
    await send({"type": "http.response.body", "body": b""})


def version_header(pipeline: Pipeline) -> Header:
    """The header that names the model version of a response."""
    return b"x-model-version", pipeline.components.version_label.encode()


def json_response(content: bytes, status: int = 200) -> Response:
    """A Starlette response with a body that is already JSON."""
    return Response(content, status_code=status, media_type="application/json")


def error_response(scope: Scope, error: Exception) -> tuple[int, list[Header], list[bytes]]:
    """Status, headers and body of the response to an error; one that was not foreseen becomes a 500 without details."""
    refusal = _refusal(error)
    if refusal is None:
        refusal = _Refusal(500, "internal_error", "the service failed; its log holds the cause")
        # The message of the error is not logged: it may quote a row, and the log must not contain clients' data.
        where = "".join(traceback.format_tb(error.__traceback__))
        _logger.error("request %s failed: %s\n%s", request_id(scope), type(error).__name__, where)
    body = ErrorBody.of(refusal.code, refusal.message, request_id(scope), refusal.problems)
    return refusal.status, [JSON_TYPE, *refusal.headers], [msgspec.json.encode(body)]


def _refusal(error: Exception) -> _Refusal | None:
    if isinstance(error, RequestError):
        return _request_refusal(error)
    if isinstance(error, AccessError):
        return _Refusal(_ACCESS_STATUS[type(error)], error.code, str(error), (*_access_headers(error), _CLOSE))
    if isinstance(error, OverloadedError):
        return _Refusal(503, "unavailable", f"{error}; try again", (_RETRY, _CLOSE))
    if isinstance(error, (ScoringError, TimeoutError, KeysError)):
        return _Refusal(503, "unavailable", "the rows could not be scored just now; try again", (_RETRY,))
    if isinstance(error, HTTPException):
        code = _HTTP_CODES.get(error.status_code, "bad_request")
        headers = ((name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items())
        return _Refusal(error.status_code, code, error.detail, tuple(headers))
    return None


def _request_refusal(error: RequestError) -> _Refusal:
    status = _STATUS.get(type(error), 422)
    headers = (_CLOSE,) if status in {408, 413} else ()
    if isinstance(error, InvalidRowsError):
        return _Refusal(status, error.problems[0].code, str(error), headers, error.problems)
    if isinstance(error, NotScorableError) and error.row is not None:
        problem = FieldProblem(error.row, None, error.code, str(error))
        return _Refusal(status, error.code, str(error), headers, [problem])
    return _Refusal(status, error.code, str(error), headers)


def _access_headers(error: AccessError) -> list[Header]:
    """The headers that RFC 6750 (bearer tokens) and RFC 6585 (429) ask for."""
    if isinstance(error, UnauthorizedError):
        challenge = f'{_REALM}, error="invalid_token"' if error.is_given else _REALM
        return [(b"www-authenticate", challenge.encode())]
    if isinstance(error, ForbiddenError):
        return [(b"www-authenticate", f'{_REALM}, error="insufficient_scope", scope="{error.scope}"'.encode())]
    if isinstance(error, TooManyRequestsError):
        return [(b"retry-after", b"%d" % error.retry_after_s)]
    return []
