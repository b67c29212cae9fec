from __future__ import annotations

import gzip
import io
import random
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api.inflate import Inflater
from serve_app.errors import BodyTooLargeError, MalformedGzipError

EMPTY = gzip.compress(b"[]", mtime=0)  # test names must be the same in each process


def inflate(parts: list[bytes], max_bytes: int = 10_000_000) -> bytes:
    inflater = Inflater(max_bytes)
    inflated = b"".join(piece for part in parts for piece in inflater.pieces(part))
    inflater.finish()
    return inflated


@given(st.binary(max_size=2000), st.integers(1, 300), st.integers(0, 9))
def test_what_was_compressed_comes_out_however_it_is_cut(content: bytes, size: int, level: int) -> None:
    whole = gzip.compress(content, level)
    assert inflate([whole[start : start + size] for start in range(0, len(whole), size)]) == content


def test_a_large_body_comes_in_pieces_and_whole() -> None:
    content = random.Random(1).randbytes(1000) * 3000
    pieces = list(Inflater(10_000_000).pieces(gzip.compress(content)))
    assert b"".join(pieces) == content
    assert max(map(len, pieces)) <= 256 * 1024
    assert inflate([gzip.compress(b"\0" * 256 * 1024 * 4)]) == b"\0" * 256 * 1024 * 4


def test_a_bomb_goes_off_in_the_limit_and_no_further() -> None:
    bomb = gzip.compress(b"\0" * 300_000_000, 9)
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLargeError):
            inflate([bomb], max_bytes=1_000_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(bomb) < 400_000
    assert peak < 4_000_000


def test_a_bomb_within_a_bomb_is_one_layer_only() -> None:
    inner = gzip.compress(b"[]" * 1000)
    assert inflate([gzip.compress(inner)]) == inner


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "incomplete"),
        (b"[]", "not gzip at all"),
        (EMPTY[:-1], "incomplete"),
        (EMPTY[:12], "incomplete"),
        (EMPTY + b"x", "follows its end"),
        (EMPTY * 2, "follows its end"),
        (EMPTY[:-6] + b"\0" * 6, "damaged"),
        (b"\x1f\x8b\x08\xff" + b"\0" * 20, "damaged"),
        (b"x\x9c\x8b\x8e\x05\x00\x01\x15\x00\xb9", "not gzip at all"),  # zlib's own format
    ],
)
def test_what_is_no_gzip_is_said_so(body: bytes, said: str) -> None:
    with pytest.raises(MalformedGzipError, match=said):
        inflate([body])


def test_a_byte_at_a_time_is_as_good() -> None:
    buffer = io.BytesIO()
    with gzip.GzipFile("a name", "wb", fileobj=buffer) as file:
        file.write(b"[1, 2]")
    assert inflate([bytes([byte]) for byte in buffer.getvalue()]) == b"[1, 2]"


make_decompressobj = zlib.decompressobj


class Counting:
    """zlib's object, and how many bytes it was fed; what it has not used comes back as a copy each time."""

    fed_bytes = 0

    def __init__(self, window: int) -> None:
        self._decompress = make_decompressobj(window)

    def decompress(self, compressed: bytes, most: int) -> bytes:
        Counting.fed_bytes += len(compressed)
        return self._decompress.decompress(compressed, most)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decompress, name)


def test_the_work_for_what_does_not_compress_grows_with_its_size_and_not_with_its_square(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(zlib, "decompressobj", Counting)
    content = random.Random(2).randbytes(10_000_000)
    body = gzip.compress(content, 1)
    Counting.fed_bytes = 0
    assert inflate([body], max_bytes=20_000_000) == content
    assert Counting.fed_bytes < 2 * len(body)
