"""Dropping the rest of a body that is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from starlette.types import Message

from serve_app.api import incoming
from serve_app.api.incoming import Incoming
from serve_app.api.responses import refuse


class Client:
    """Sends the given parts, and then nothing; keeps what it receives."""

    def __init__(self, *parts: Message) -> None:
        self.parts: Iterator[Message] = iter(parts)
        self.log: list[str] = []

    async def receive(self) -> Message:
        for part in self.parts:
            self.log.append("sent")
            return part
        await asyncio.Event().wait()
        raise AssertionError("it waits for ever")

    async def send(self, message: Message) -> None:
        self.log.append(f"{message['type']} {message.get('more_body')}")


def part(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def drain(client: Client, read: int = 0) -> None:
    """Reads so many parts, then drains."""

    async def run() -> None:
        body = Incoming(client.receive)
        for _ in range(read):
            await body()
        await body.drain()

    asyncio.run(asyncio.wait_for(run(), 20))


@pytest.fixture
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "_DRAIN_TIMEOUT_S", 0.2)
    monkeypatch.setattr(incoming, "_DRAIN_IDLE_TIMEOUT_S", 0.05)


def test_the_client_has_the_whole_response_before_the_rest_of_its_body_is_dropped() -> None:
    client = Client(part(b"1"), part(b"2"), part(b"3", more=False))
    asyncio.run(refuse(Incoming(client.receive), client.send, 413, [], [b"{", b"}"]))
    response = ["http.response.start None", "http.response.body True"]
    assert client.log == [*response, "sent", "sent", "sent", "http.response.body None"]


def test_a_body_that_was_read_to_its_end_is_not_waited_for() -> None:
    drain(Client(part(b"1"), part(b"2", more=False)), read=2)


def test_a_client_that_disconnects_is_not_waited_for() -> None:
    client = Client(part(b"1"), {"type": "http.disconnect"})
    drain(client, read=1)
    assert client.log == ["sent"] * 2


def test_no_more_than_some_megabytes_are_dropped() -> None:
    client = Client(*[part(bytes(2**20))] * 100)
    drain(client)
    assert client.log == ["sent"] * 32


@pytest.mark.usefixtures("short_times")
def test_a_client_that_sends_nothing_more_is_not_waited_for_long() -> None:
    drain(Client(part(b"1")), read=1)


@pytest.mark.usefixtures("short_times")
def test_a_client_that_trickles_is_not_waited_for_long() -> None:
    class Trickling(Client):
        async def receive(self) -> Message:
            await asyncio.sleep(0.02)
            return part(b"1")

    drain(Trickling())


@pytest.mark.usefixtures("short_times")
def test_so_many_requests_are_drained_at_once_and_the_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "_MOST_DRAINS", 2)
    clients = [Client(part(b"1")) for _ in range(5)]

    async def run() -> None:
        await asyncio.gather(*(Incoming(client.receive).drain() for client in clients))

    asyncio.run(run())
    assert [client.log for client in clients] == [["sent"], ["sent"], [], [], []]
    assert Incoming.drains == 0
