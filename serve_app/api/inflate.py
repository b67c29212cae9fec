"""gzip bodies, inflated piece by piece and never beyond a limit.

Owns the guard against bodies that inflate to many times their size. Knows no HTTP and no JSON.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from serve_app.errors import BodyTooLargeError, MalformedGzipError

__all__ = ["Inflater"]

_GZIP = 16 + zlib.MAX_WBITS  # zlib's way to say: a gzip header and trailer, and nothing else
_SLICE_BYTES = 64 * 1024  # fed at a time: zlib copies what it has not used yet for each piece that comes out
_PIECE_BYTES = 256 * 1024  # about a millisecond of inflating: as long as a neighbour's request may have to wait


class Inflater:
    """One gzip body.

    Args:
        max_bytes: how much may come out.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._inflated_bytes = 0
        self._decompress = zlib.decompressobj(_GZIP)

    def pieces(self, compressed: bytes | bytearray) -> Iterator[bytes]:
        """What the next part of the body inflates to, in pieces of at most 256 KiB.

        Raises:
            BodyTooLargeError: all of it so far is larger than the limit; not more than one piece beyond it was ever held.
            MalformedGzipError: it is no gzip, or something stands behind it.
        """
        view = memoryview(compressed)
        for start in range(0, len(view), _SLICE_BYTES):
            yield from self._pieces_of_slice(view[start : start + _SLICE_BYTES])

    def _pieces_of_slice(self, compressed: bytes | memoryview) -> Iterator[bytes]:
        while True:
            if compressed and self._decompress.eof:
                raise MalformedGzipError("something stands behind its end")
            try:
                piece = self._decompress.decompress(compressed, _PIECE_BYTES)
            except zlib.error as error:
                raise MalformedGzipError("it is damaged, or no gzip at all") from error
            self._inflated_bytes += len(piece)
            if self._inflated_bytes > self._max_bytes:
                raise BodyTooLargeError(self._max_bytes)
            yield piece
            compressed = self._decompress.unused_data or self._decompress.unconsumed_tail
            if not compressed and len(piece) < _PIECE_BYTES:  # a full piece may have more behind it, with no input left
                break

    def finish(self) -> None:
        """Raises MalformedGzipError when the body has broken off."""
        if not self._decompress.eof:
            raise MalformedGzipError("it breaks off")
