"""Reading the body of a request within limits of size and time, and inflating it if it is gzip.

Owns the limits while bytes arrive: what exceeds them is refused before it is held. Does not look into the body: scoring/rows.py
finds out whether it is JSON, and what the JSON says.
"""

from __future__ import annotations

import asyncio

from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope

from serve_app.api.body_budget import Reservation
from serve_app.api.inflate import Inflater
from serve_app.config import Limits
from serve_app.errors import BodyTooLargeError, BodyTooSlowError

__all__ = ["ClientGoneError", "read_body"]

_MOST_DIGITS = 18


class ClientGoneError(Exception):
    """The client disconnected before its request was complete; no response can be sent."""


async def read_body(scope: Scope, receive: Receive, limits: Limits, reservation: Reservation) -> bytes | bytearray:
    """The whole body, inflated.

    Args:
        scope: of the request.
        receive: gives the parts of the body.
        limits: of its size and time.
        reservation: grows with the body; the caller releases it.

    Raises:
        BodyTooLargeError: the body, or its announced or inflated length, exceeds the limit.
        BodyTooSlowError: it did not arrive in time.
        MalformedGzipError: its encoding says gzip, but it is not.
        OverloadedError: the replica already holds too many bytes of other requests.
        TimeoutError: inflating took too long.
        ClientGoneError: the client disconnected.
        HTTPException: 415, the body has another encoding.
    """
    is_gzip = False
    for name, value in scope["headers"]:
        if name == b"content-length" and _announces_more(value, limits.max_body_bytes):
            raise BodyTooLargeError(limits.max_body_bytes)
        if name == b"content-encoding":
            is_gzip = _says_gzip(value)
    body = await _received(receive, limits, reservation)
    return await _inflated(body, limits, reservation) if is_gzip else body


def _announces_more(content_length: bytes, max_bytes: int) -> bool:
    # A length of thousands of digits is not converted. One that is not a number is left to the HTTP server.
    return content_length.isdigit() and (len(content_length) > _MOST_DIGITS or int(content_length) > max_bytes)


async def _received(receive: Receive, limits: Limits, reservation: Reservation) -> bytes | bytearray:
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
                reservation.grow(len(part))
                if body:
                    body += part
                else:
                    body = bytearray(part) if more_body else part
                if len(body) > limits.max_body_bytes:
                    raise BodyTooLargeError(limits.max_body_bytes)
    except TimeoutError:
        raise BodyTooSlowError from None
    return body


def _says_gzip(content_encoding: bytes) -> bool:
    encoding = content_encoding.strip().lower()
    if encoding not in {b"", b"identity", b"gzip", b"x-gzip"}:
        raise HTTPException(
            415, "the body must be uncompressed, or compressed by gzip once", {"accept-encoding": "gzip, identity"}
        )
    return encoding.endswith(b"gzip")


async def _inflated(body: bytes | bytearray, limits: Limits, reservation: Reservation) -> bytearray:
    inflater, inflated = Inflater(limits.max_body_bytes), bytearray()
    async with asyncio.timeout(limits.read_timeout_s):
        for piece in inflater.pieces(body):
            if inflated:
                await asyncio.sleep(0)  # a large body: let other requests run between two pieces
            reservation.grow(len(piece))
            inflated += piece
    inflater.finish()
    return inflated
