"""Reading a body, without a server; what a client sees of it is tests/integration/test_api.py's."""

from __future__ import annotations

import asyncio
import gzip
import itertools
from collections.abc import Iterable
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from serve_app.api.body import ClientGoneError, read_body
from serve_app.api.body_budget import BodyBudget, Reservation
from serve_app.api.inflate import Inflater
from serve_app.api.responses import error_response
from serve_app.config import Limits
from serve_app.errors import BodyTooLargeError, BodyTooSlowError

LIMITS = Limits(max_body_bytes=10, idle_timeout_s=0.05, read_timeout_s=0.2)


def read(parts: Iterable[dict[str, Any] | None], headers: Iterable[tuple[bytes, bytes]] = (), limits: Limits = LIMITS) -> bytes:
    """What read_body makes of the messages of a client; None is a client that says nothing more."""
    messages = iter(parts)
    taken = []

    async def receive() -> dict[str, Any]:
        message = next(messages)
        taken.append(message)
        if message is None:
            await asyncio.sleep(60)
        assert message is not None
        return message

    return bytes(asyncio.run(read_body({"headers": list(headers)}, receive, limits, Reservation(BodyBudget(10**9)))))


def part(body: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_is_joined_from_its_parts() -> None:
    assert read([part(b"[1,"), part(b""), part(b"2"), part(b"]", more=False)]) == b"[1,2]"
    assert read([part(b"[]", more=False)]) == b"[]"
    assert read([{"type": "http.request"}]) == b""


def test_a_body_may_be_as_large_as_the_limit_and_no_larger() -> None:
    assert read([part(b"x" * 10, more=False)]) == b"x" * 10
    for parts in ([part(b"x" * 11, more=False)], [part(b"x" * 6), part(b"x" * 6)]):
        with pytest.raises(BodyTooLargeError):
            read(parts)


def test_a_body_that_says_it_is_too_large_is_not_read_at_all() -> None:
    with pytest.raises(BodyTooLargeError):
        read([], headers=[(b"content-length", b"11")])


def test_a_length_that_is_no_number_is_left_to_the_bytes_that_come() -> None:
    assert read([part(b"[]", more=False)], headers=[(b"content-length", b"many")]) == b"[]"


def test_a_body_that_does_not_arrive_in_time_is_refused() -> None:
    with pytest.raises(BodyTooSlowError, match="in time"):
        read([part(b"["), None])


def test_a_body_that_trickles_is_refused_when_its_time_is_over() -> None:
    async def trickle() -> dict[str, Any]:
        await asyncio.sleep(0.02)
        return part(b"")

    with pytest.raises(BodyTooSlowError):
        asyncio.run(read_body({"headers": []}, trickle, LIMITS, Reservation(BodyBudget(10**9))))


def gzipped(parts: Iterable[dict[str, Any]]) -> bytes:
    return read(parts, [(b"content-encoding", b" GZip ")], Limits(max_body_bytes=100))


def test_a_gzip_body_is_inflated_however_it_is_cut() -> None:
    whole = gzip.compress(b"[1,2,3]")
    assert gzipped([part(whole[:4]), part(whole[4:9]), part(whole[9:], more=False)]) == b"[1,2,3]"


def test_a_body_that_inflates_beyond_the_limit_is_too_large() -> None:
    assert gzipped([part(gzip.compress(b"x" * 100), more=False)]) == b"x" * 100
    with pytest.raises(BodyTooLargeError):
        gzipped([part(gzip.compress(b"x" * 101), more=False)])


def test_inflating_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Inflater, "pieces", lambda *_: itertools.repeat(b"["))
    with pytest.raises(TimeoutError):
        read([part(b"x", more=False)], [(b"content-encoding", b"gzip")], Limits(read_timeout_s=0.1))


@pytest.mark.parametrize("encoding", [b"br", b"deflate", b"gzip, gzip", b"zstd", b"gzip;q=1"])
def test_another_encoding_is_refused_with_those_that_are_accepted(encoding: bytes) -> None:
    with pytest.raises(HTTPException) as refused:
        read([part(b"[]", more=False)], headers=[(b"content-encoding", encoding)])
    status, headers, _ = error_response({"headers": []}, refused.value)
    assert status == 415
    assert dict(headers)[b"accept-encoding"] == b"gzip, identity"


def test_a_length_of_thousands_of_digits_is_too_large_and_no_failure() -> None:
    with pytest.raises(BodyTooLargeError):
        read([], headers=[(b"content-length", b"9" * 5000)])


def test_a_client_that_leaves_ends_the_reading() -> None:
    with pytest.raises(ClientGoneError):
        read([part(b"["), {"type": "http.disconnect"}])
