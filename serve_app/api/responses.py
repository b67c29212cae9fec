"""Responses: which HTTP status and headers an error becomes, and how an answer is sent."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Iterable

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope, Send

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

__all__ = ["JSON_TYPE", "error_response", "json_response", "respond", "version_header"]

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
JSON_TYPE = (b"content-type", b"application/json")
_REALM = 'Bearer realm="class-prediction"'


async def respond(
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


def version_header(pipeline: Pipeline) -> tuple[bytes, bytes]:
    """The header that says which version of the model answered."""
    return b"x-model-version", pipeline.components.manifest.version.encode()


def json_response(content: bytes, status: int = 200) -> Response:
    """A response whose body is JSON already."""
    return Response(content, status_code=status, media_type="application/json")


def error_response(scope: Scope, error: Exception) -> tuple[int, list[tuple[bytes, bytes]], list[bytes]]:
    """Status, headers and body of an error."""
    headers = [JSON_TYPE]
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
