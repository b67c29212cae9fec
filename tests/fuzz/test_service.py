"""Bodies of the grammar over HTTP: every answer is the expected one, and good traffic alongside is answered bit for bit alike.

No 500, no hang, no growth of memory. What a body must be answered is known from the reference reading and from scoring in this
process.
"""

from __future__ import annotations

import gzip
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pytest
from support.parser_comparison import published_columns
from support.reference_rows import Expected, ReferenceReader, is_strict_json
from support.request_grammar import Grammar
from support.serving import Server, run_command, serve, write_config

from serve_app.components.compiled import Components
from serve_app.config import PROJECT_ROOT, Limits

pytestmark = pytest.mark.fuzz

INPUTS = max(1000, int(os.environ.get("FUZZ_INPUTS", "1000000")) // 5)
SEED = int(os.environ.get("FUZZ_SEED", "26"))
EXPECTED = 0.36208864382410294
MAX_GROWTH_BYTES = 150_000_000
CLIENTS = 6
LEAST_WELL_FORMED = 0.5
LIMITS = Limits()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    config, url = write_config(tmp_path_factory.mktemp("fuzz"))
    with serve(run_command(config), url) as server:
        yield server


class Answer(NamedTuple):
    status: int  # 0: the connection was closed without one
    body: bytes
    seconds: float


class Oracle:
    """Knows what a body must be answered."""

    def __init__(self, components: Components) -> None:
        self._components = components
        self.columns = published_columns(components)
        self._reader = ReferenceReader(
            self.columns,
            max_magnitude=components.encoder.max_magnitude,
            max_rows=LIMITS.max_rows,
            max_text_characters=LIMITS.max_text_characters,
            max_nesting=LIMITS.max_nesting,
        )

    def complaint(self, body: bytes, answer: Answer, *, reports: bool) -> str:
        """What is wrong with an answer; empty if nothing is."""
        expected = self._reader.read(body)
        refused = {"malformed": 400, "not_rows": 422, "": 422 if expected.problems and not reports else 200}
        if answer.status != refused[expected.refusal]:
            return f"status {answer.status} instead of {refused[expected.refusal]}"
        document = json.loads(answer.body)
        if answer.status == http.client.OK:
            return self._complaint_of_rows(expected, document)
        if not document["error"]["code"]:
            return "no code"
        named = [(one["row"], one["field"], one["code"]) for one in document["error"].get("rows", [])]
        wanted = [] if expected.refusal else list(expected.problems)
        return "" if named == wanted[: len(named)] and bool(named) == bool(wanted) else f"problems {named} instead of {wanted}"

    def _complaint_of_rows(self, expected: Expected, document: list[dict[str, Any]]) -> str:
        if len(document) != expected.rows:
            return f"{len(document)} answers to {expected.rows} rows"
        bad = {row: code for row, _, code in reversed(expected.problems)}  # the first problem of each bad row
        good = [one for row, one in enumerate(document) if row not in bad]
        for row, code in bad.items():
            if document[row]["error"]["code"] != code:
                return f"row {row} has the error {document[row]['error']['code']} instead of {code}"
        if not good:
            return ""
        values = np.array(expected.values, dtype=np.float64)
        probabilities = self._components.score(values)[:, 1].tolist()
        found = [one["probability_positiveclass"] for one in good]
        return "" if found == probabilities else f"probabilities {found} instead of {probabilities}"


class Traffic:
    """Clients that send generated bodies, and one that sends a good body all the time and looks at each answer."""

    def __init__(self, url: str, oracle: Oracle, inputs: int) -> None:
        self._address = urlsplit(url)
        self._oracle = oracle
        self._grammar = Grammar(oracle.columns)
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._left = inputs
        self.statuses: Counter[int] = Counter()
        self.well_formed = 0
        self.good = 0
        self.wrong: list[tuple[str, bytes, bytes]] = []
        self.slowest_s = 0.0

    def run(self, seed: int) -> None:
        """Until all inputs are sent."""
        clients = [threading.Thread(target=self._send_generated, args=(seed * 1000 + number,)) for number in range(CLIENTS)]
        alongside = threading.Thread(target=self._send_good)
        for thread in [*clients, alongside]:
            thread.start()
        for thread in clients:
            thread.join()
        self._done.set()
        alongside.join()

    def _ask(self, connection: http.client.HTTPConnection, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        start = time.monotonic()
        try:
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            answer = Answer(response.status, response.read(), time.monotonic() - start)
        except (http.client.HTTPException, ConnectionError):
            connection.close()  # refused with the connection; the next request opens a new one
            return Answer(0, b"", 0.0)
        with self._lock:
            self.slowest_s = max(self.slowest_s, answer.seconds)
        return answer

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(str(self._address.hostname), self._address.port, timeout=30)

    def _send_generated(self, seed: int) -> None:
        random = Random(seed)
        with closing(self._connection()) as connection:
            while self._take():
                body = self._grammar.body(random)
                complaint, answer = self._send_one(random, connection, body)
                is_well_formed = is_strict_json(body)
                with self._lock:
                    self.statuses[answer.status] += 1
                    self.well_formed += is_well_formed
                    if complaint:
                        self.wrong.append((complaint, body, answer.body[:500]))

    def _send_one(self, random: Random, connection: http.client.HTTPConnection, body: bytes) -> tuple[str, Answer]:
        """Mostly a plain request, now and then one with a query, a compressed body or a strange header."""
        kind = random.random()
        if kind < 0.1:
            answer = self._ask(connection, "/predict?on_error=report", body, {})
            return self._oracle.complaint(body, answer, reports=True), answer
        if kind < 0.15:
            answer = self._ask(connection, "/predict", gzip.compress(body, 1), {"content-encoding": "gzip"})
            return self._oracle.complaint(body, answer, reports=False), answer
        if kind < 0.18 and not body.startswith(b"\x1f\x8b"):
            answer = self._ask(connection, "/predict", body, {"content-encoding": "gzip"})
            return ("" if answer.status == 400 else f"status {answer.status} for what is not gzip"), answer
        if kind < 0.22:
            strange = "".join(random.choices("abc \t\x7f'\"{}", k=random.randint(0, 200))).strip()
            answer = self._ask(connection, "/predict", body, {"x-request-id": strange})
            is_refused = answer.status == 0 or (answer.status == 400 and _is_a_refusal(answer.body))
            return ("" if is_refused else self._oracle.complaint(body, answer, reports=False)), answer
        answer = self._ask(connection, "/predict", body, {})
        return self._oracle.complaint(body, answer, reports=False), answer

    def _send_good(self) -> None:
        body = (PROJECT_ROOT / "data" / "reference" / "example.json").read_bytes()
        first = b""
        with closing(self._connection()) as connection:
            while not self._done.wait(0.01):
                answer = self._ask(connection, "/predict", body, {})
                first = first or answer.body
                if answer.status != 200 or answer.body != first:
                    self.wrong.append(("the good traffic has another answer", body, answer.body))
                elif json.loads(answer.body)[0]["probability_positiveclass"] != EXPECTED:
                    self.wrong.append(("the good traffic has a wrong answer", body, answer.body))
                self.good += 1

    def _take(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left >= 0


def _is_a_refusal(answer: bytes) -> bool:
    """Our JSON with its code, or the refusal of headers by HAProxy or a replica's HTTP server."""
    if answer.startswith(b"<html><body><h1>400 ") or answer == b"Invalid HTTP request received.":
        return True
    try:
        return bool(json.loads(answer)["error"]["code"])
    except (ValueError, LookupError, TypeError):
        return False


def replicas_memory(server: Server) -> int:
    return sum(
        process.memory_info().rss
        for process in server.process.children(recursive=True)
        if process.name().startswith("ray::Serve")
    )


def test_every_generated_body_gets_its_expected_answer_and_good_traffic_alongside_the_same(
    service: Server, components: Components
) -> None:
    oracle = Oracle(components)
    warm_up = Traffic(service.url, oracle, min(INPUTS, 2000))
    warm_up.run(SEED + 1)
    before = replicas_memory(service)
    traffic = Traffic(service.url, oracle, INPUTS)
    start = time.monotonic()
    traffic.run(SEED)
    took_s = time.monotonic() - start
    growth = replicas_memory(service) - before
    print(
        f"\n{traffic.statuses.total():,} inputs in {took_s:.0f} s, {traffic.statuses.total() / took_s:,.0f}/s; "
        f"{traffic.well_formed / traffic.statuses.total():.0%} JSON; {dict(sorted(traffic.statuses.items()))}; "
        f"{traffic.good:,} good requests alongside; the slowest answer needed {traffic.slowest_s:.2f} s; "
        f"replicas grew by {growth / 1e6:.0f} MB"
    )
    assert warm_up.wrong + traffic.wrong == []
    assert traffic.statuses.total() == INPUTS
    assert {200, 400, 422} <= traffic.statuses.keys()
    assert traffic.well_formed >= LEAST_WELL_FORMED * INPUTS
    assert traffic.slowest_s < 30
    assert traffic.good > 0
    assert growth < MAX_GROWTH_BYTES
    assert all(process.is_running() for process in service.process.children(recursive=True) if process.name() == "haproxy")


def test_the_service_keeps_what_its_openapi_document_says(service: Server) -> None:
    examples = max(50, INPUTS // 200)
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    done = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"), "run", f"{service.url}/openapi.json", f"--checks={checks}",
            f"--max-examples={examples}", f"--seed={SEED}", "--phases=examples,coverage,fuzzing", "--request-timeout=30",
        ],
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )  # fmt: skip
    print(done.stdout[-1500:])
    assert done.returncode == 0, done.stdout[-6000:]
