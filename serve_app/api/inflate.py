"""Inflating gzip bodies piece by piece, up to a limit.

Owns the protection against small bodies that inflate to gigabytes. Knows no HTTP and no JSON.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from serve_app.errors import BodyTooLargeError, MalformedGzipError

__all__ = ["Inflater"]

_GZIP = 16 + zlib.MAX_WBITS  # tells zlib to expect a gzip header and trailer, and no other format
_SLICE_BYTES = 64 * 1024  # of input at a time: for every piece of output, zlib copies the input that is left over
_PIECE_BYTES = 256 * 1024  # about a millisecond of work: how long other requests may have to wait


class Inflater:
    """Inflates one gzip body.

    Args:
        max_bytes: the most bytes that it may inflate to.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._inflated_bytes = 0
        self._decompress = zlib.decompressobj(_GZIP)

    def pieces(self, compressed: bytes | bytearray) -> Iterator[bytes]:
        """Inflates the next part of the body, in pieces of at most 256 KiB.

        Raises:
            BodyTooLargeError: the body exceeds the limit; at most one piece beyond the limit was inflated.
            MalformedGzipError: it is not gzip, or more data follows its end.
        """
        view = memoryview(compressed)
        for start in range(0, len(view), _SLICE_BYTES):
            yield from self._pieces_of_slice(view[start : start + _SLICE_BYTES])

    def _pieces_of_slice(self, compressed: bytes | memoryview) -> Iterator[bytes]:
        while True:
            if compressed and self._decompress.eof:
                raise MalformedGzipError("more data follows its end")
            try:
                piece = self._decompress.decompress(compressed, _PIECE_BYTES)
            except zlib.error as error:
                raise MalformedGzipError("it is damaged, or not gzip at all") from error
            self._inflated_bytes += len(piece)
            if self._inflated_bytes > self._max_bytes:
                raise BodyTooLargeError(self._max_bytes)
            yield piece
            compressed = self._decompress.unused_data or self._decompress.unconsumed_tail
            if not compressed and len(piece) < _PIECE_BYTES:  # after a full piece there may be more output without input
                break

    def finish(self) -> None:
        """Checks that the body was complete.

        Raises:
            MalformedGzipError: it was not.
        """
        if not self._decompress.eof:
            raise MalformedGzipError("it is incomplete")
