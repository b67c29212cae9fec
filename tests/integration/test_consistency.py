"""One row, one answer: over HTTP, alone, in batches, concurrently, and next to bad traffic."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from support.scoring import score
from support.serving import Server

from serve_app.components.compiled import Components
from serve_app.config import PROJECT_ROOT
from serve_app.exercise.stand_in_data import generate

CLIENTS = 16


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """10,000 generated rows."""
    path = PROJECT_ROOT / "data" / "test.json"
    if not path.exists():
        folder: Path = tmp_path_factory.mktemp("data")
        generate(folder, train_rows=100)
        path = folder / "test.json"
    loaded: list[dict[str, Any]] = json.loads(path.read_bytes())
    assert len(loaded) == 10_000
    return loaded


@pytest.fixture(scope="module")
def answers(server: Server, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The answers to the rows in one call."""
    response = server.predict(json.dumps(rows))
    assert response.status_code == 200
    answered: list[dict[str, Any]] = response.json()
    assert len(answered) == len(rows)
    return answered


def post_all(server: Server, bodies: Sequence[bytes], expected_status: int = 200) -> Iterator[Any]:
    """The decoded answers, in order, of many calls by concurrent clients that each keep a connection."""
    address = urlsplit(server.url)
    connections = threading.local()

    def post(body: bytes) -> Any:
        if not hasattr(connections, "one"):
            connections.one = http.client.HTTPConnection(str(address.hostname), address.port, timeout=60)
            opened.append(connections.one)
        connections.one.request("POST", "/predict", body=body)
        response = connections.one.getresponse()
        content = response.read()
        assert response.status == expected_status, content[:300]
        return json.loads(content)

    opened: list[http.client.HTTPConnection] = []
    try:
        with ThreadPoolExecutor(CLIENTS) as clients:
            yield from clients.map(post, bodies)
    finally:
        for connection in opened:
            connection.close()


def test_ten_thousand_rows_in_one_call_equal_the_model_itself(
    answers: list[dict[str, Any]], rows: list[dict[str, Any]], components: Components
) -> None:
    assert [answer["probability_positiveclass"] for answer in answers] == score(components, rows)[:, 1].tolist()


def test_ten_thousand_rows_in_one_call_equal_ten_thousand_concurrent_single_calls_bit_for_bit(
    server: Server, answers: list[dict[str, Any]], rows: list[dict[str, Any]]
) -> None:
    alone = [answer for (answer,) in post_all(server, [json.dumps([row]).encode() for row in rows])]
    assert alone == answers


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_splits_sent_concurrently_equal_one_call_bit_for_bit(
    server: Server, answers: list[dict[str, Any]], rows: list[dict[str, Any]], seed: int
) -> None:
    cuts = np.sort(np.random.default_rng(seed).integers(0, len(rows), 60)).tolist()
    bodies = [json.dumps(rows[a:b]).encode() for a, b in itertools.pairwise([0, *cuts, len(rows)])]
    assert [answer for part in post_all(server, bodies) for answer in part] == answers


def test_bad_traffic_at_the_same_time_changes_and_fails_nothing(
    server: Server, answers: list[dict[str, Any]], rows: list[dict[str, Any]]
) -> None:
    bad = [
        b"nope",
        b'[{"x53": NaN}]',
        b"[" * 50_000,
        b"null",
        b"[1]",
        b"[{}]",
        json.dumps([{**rows[0], "x53": "bad"}, rows[1]]).encode(),
        json.dumps([{**rows[0], "x53": True}]).encode(),
        json.dumps([*rows[:3000], {"x53": 1}]).encode(),
    ]
    stop = threading.Event()
    sent = []

    def misbehave() -> None:
        for body in itertools.cycle(bad):
            if stop.is_set():
                return
            sent.append(server.predict(body).status_code)

    troublemakers = [threading.Thread(target=misbehave) for _ in range(4)]
    for troublemaker in troublemakers:
        troublemaker.start()
    try:
        alone = [answer for (answer,) in post_all(server, [json.dumps([row]).encode() for row in rows[:2000]])]
        batches = [json.dumps(rows[start : start + 250]).encode() for start in range(0, len(rows), 250)]
        together = [answer for part in post_all(server, batches) for answer in part]
    finally:
        stop.set()
        for troublemaker in troublemakers:
            troublemaker.join()
    assert alone == answers[:2000]
    assert together == answers
    assert len(sent) >= len(bad)
    assert set(sent) == {400, 422}


def test_a_hundred_thousand_rows_in_one_call_are_answered(
    server: Server, answers: list[dict[str, Any]], rows: list[dict[str, Any]]
) -> None:
    body = json.dumps(rows).encode()
    tenfold = b"[" + b",".join([body[1:-1]] * 10) + b"]"
    assert len(tenfold) > 150_000_000
    response = server.predict(tenfold)
    assert response.status_code == 200
    assert response.json() == answers * 10


def test_a_client_that_leaves_in_the_middle_disturbs_nobody(server: Server, rows: list[dict[str, Any]]) -> None:
    address = urlsplit(server.url)
    for _ in range(20):
        with closing(http.client.HTTPConnection(str(address.hostname), address.port, timeout=30)) as connection:
            connection.putrequest("POST", "/predict")
            connection.putheader("Content-Length", "1000")
            connection.endheaders(b'[{"x53":')
    assert server.predict(json.dumps(rows[:5])).status_code == 200
