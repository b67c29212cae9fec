"""The body of a request: read within limits of size and time, inflated where it is gzip."""

from __future__ import annotations

import asyncio

from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope

from serve_app.api.body_budget import Held
from serve_app.api.inflate import Inflater
from serve_app.config import Limits
from serve_app.errors import (
    BodyTooLargeError,
    BodyTooSlowError,
)

__all__ = ["ClientGoneError", "read_body"]


class ClientGoneError(Exception):
    """The client went away before its request was whole; there is nobody to answer."""


async def read_body(scope: Scope, receive: Receive, limits: Limits, held: Held) -> bytes | bytearray:
    """The body, inflated, as long as it is neither too large nor too slow; what is beyond the limit is never held.

    Raises:
        BodyTooLargeError: it is, or says that it will be.
        BodyTooSlowError: it is.
        MalformedGzipError: it should be gzip, and is not.
        OverloadedError: there is no room for it beside other requests.
        TimeoutError: it cannot be inflated in time.
        ClientGoneError: the client disconnected.
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
                    raise ClientGoneError
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
