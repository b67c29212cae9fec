"""A limit on the bytes of all request bodies that one replica holds, so that large bodies cannot exhaust its memory.

Owns the count. Ray Serve limits the number of concurrent requests; this limits their size, because one request may have one row
or a hundred thousand. Knows no HTTP and reads nothing: body.py reserves bytes as they arrive.
"""

from __future__ import annotations

from serve_app.errors import OverloadedError

__all__ = ["SMALL_BYTES", "BodyBudget", "Reservation"]

SMALL_BYTES = 1024 * 1024
"""A request of at most this size is always admitted: a few large and slow bodies must not block everyone else. The total size
of small requests is limited by their number, which Ray Serve limits."""


class BodyBudget:
    """The bytes that the requests of one replica hold together.

    Args:
        max_bytes: of bodies, as received and inflated. A single request is always admitted, whatever its size, and so is every
            request of at most ``SMALL_BYTES``.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.held_bytes = 0
        """The bytes that are held now."""

    def reserve(self, count: int, held_by_request: int) -> None:
        """Adds ``count`` bytes of a request that already holds ``held_by_request``.

        Raises:
            OverloadedError: the other requests leave too little of the budget.
        """
        is_small = held_by_request + count <= SMALL_BYTES
        is_alone = self.held_bytes <= held_by_request
        if self.held_bytes + count > self._max_bytes and not is_small and not is_alone:
            raise OverloadedError
        self.held_bytes += count

    def release(self, count: int) -> None:
        """Subtracts bytes that a request no longer holds."""
        self.held_bytes -= count


class Reservation:
    """The bytes of one request: reserved as they arrive, released together.

    Args:
        budget: of the replica.
    """

    __slots__ = ("_budget", "_bytes")

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self._bytes = 0

    def grow(self, count: int) -> None:
        """Reserves ``count`` more bytes.

        Raises:
            OverloadedError: the other requests leave too little of the budget.
        """
        self._budget.reserve(count, self._bytes)
        self._bytes += count

    def release(self) -> None:
        """Releases all of them."""
        self._budget.release(self._bytes)
        self._bytes = 0
