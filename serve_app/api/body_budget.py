"""How many bytes of bodies a replica holds at once, with a bound: clients beyond capacity must not fill its memory.

Owns the count. Ray Serve bounds the number of requests, which may be of one row or of a hundred thousand; this is about their
weight. Knows no HTTP.
"""

from __future__ import annotations

from serve_app.errors import OverloadedError

__all__ = ["SMALL_BYTES", "Admission", "Held"]

SMALL_BYTES = 1024 * 1024
"""A request up to this size is always admitted: a few large bodies that take their time must not shut everybody else out. What
such requests hold together is bounded by their number, which Ray Serve bounds."""


class Admission:
    """The bytes of all requests of a replica.

    Args:
        max_bytes: of bodies, as they come and inflated. One body alone is always admitted, whatever its size, and so is each
            of up to ``SMALL_BYTES``.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.held_bytes = 0
        """What is held now."""

    def admit(self, count: int, of_request: int) -> None:
        """Counts more bytes of a request that holds ``of_request`` already.

        Raises:
            OverloadedError: there is no room for them beside the other requests.
        """
        is_small = of_request + count <= SMALL_BYTES
        if self.held_bytes + count > self._max_bytes and not is_small and self.held_bytes > of_request:
            raise OverloadedError
        self.held_bytes += count


class Held:
    """The bytes of one request, which are counted as they arrive and given back together.

    Args:
        admission: of the replica.
    """

    __slots__ = ("_admission", "_bytes")

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._bytes = 0

    def grow(self, count: int) -> None:
        """Counts more bytes; raises OverloadedError when there is no room for them."""
        self._admission.admit(count, self._bytes)
        self._bytes += count

    def give_back(self) -> None:
        """Counts none of them any more."""
        self._admission.held_bytes -= self._bytes
        self._bytes = 0
