"""The body of a request as it comes in, and what happens to the rest of it once the request is refused.

A server that answers before it has read the body, and then closes the connection, breaks the pipe that its client still writes
to: many clients report that instead of the response. So some of the rest is read and dropped first, within limits: of bytes, of
time, and of requests at once, because nobody needs an API key to be refused.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar

from starlette.types import Message, Receive

__all__ = ["Incoming"]

_DRAINED_BYTES = 32 * 1024 * 1024  # 10,000 rows of 100 columns are 17 MB
_DRAIN_TIMEOUT_S = 2.0
_DRAIN_IDLE_TIMEOUT_S = 0.5  # a client that waits for the response sends nothing more
_MOST_DRAINS = 32  # each holds one of max_ongoing_requests; the others are closed at once


class Incoming:
    """The ``receive`` of an ASGI application, which knows whether the body is complete.

    Args:
        receive: the server's.
    """

    __slots__ = ("_is_complete", "_receive")

    drains: ClassVar[int] = 0
    """How many requests of this process are being drained."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._is_complete = False

    async def __call__(self) -> Message:
        """The next message, as any ``receive`` returns it."""
        message = await self._receive()
        self._is_complete = not message.get("more_body", False)  # a disconnect also ends the body
        return message

    async def drain(self) -> None:
        """Reads and drops the rest of the body, up to the limits."""
        if self._is_complete or Incoming.drains >= _MOST_DRAINS:
            return
        Incoming.drains += 1
        now = asyncio.get_running_loop().time
        left, end = _DRAINED_BYTES, now() + _DRAIN_TIMEOUT_S
        try:
            async with asyncio.timeout(None) as timeout:
                while left > 0 and not self._is_complete:
                    timeout.reschedule(min(now() + _DRAIN_IDLE_TIMEOUT_S, end))
                    message = await self()
                    left -= len(message.get("body", b""))
        except TimeoutError:
            pass
        finally:
            Incoming.drains -= 1
