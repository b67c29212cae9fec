"""Generated inputs by the hundred thousand: no 500, no hang, no growth of memory, no changed answer for the traffic beside.

make fuzz                      # 100,000 inputs for the parser, as many for a service that runs, a few thousand by schema
make fuzz FUZZ_INPUTS=5000     # a short one
"""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.serving import Server, run_command, serve, write_config

from serve_app.config import PROJECT_ROOT

pytestmark = pytest.mark.fuzz

CORPUS = PROJECT_ROOT / "tests" / "corpus"
INPUTS = int(os.environ.get("FUZZ_INPUTS", "100000"))
SEED = int(os.environ.get("FUZZ_SEED", "26"))
EXPECTED = 0.36208864382410294
MAX_GROWTH_BYTES = 150_000_000
CLIENTS = 6
ALPHABET = (
    b"[", b"]", b"{", b"}", b'"', b",", b":", b"\\", b"\\u", b"null", b"1e", b"-", b"$", b"(", b"%", b" ", b"\r\n", b"NaN",
    b"x53", b"\x00", b"\xff", b"\xed\xa0\x80", b"9" * 40,
)  # fmt: skip


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    config, url = write_config(tmp_path_factory.mktemp("fuzz"))
    with serve(run_command(config), url) as server:
        yield server


def test_bytes_become_rows_or_a_named_refusal(tmp_path: Path) -> None:
    corpus = Path(shutil.copytree(CORPUS, tmp_path / "corpus"))  # atheris adds to it what it finds
    target = Path(__file__).with_name("rows_target.py")
    limits = [f"-runs={INPUTS}", f"-seed={SEED}", "-max_len=8192", "-timeout=10", "-rss_limit_mb=2048"]
    done = subprocess.run(
        [sys.executable, target, *limits, f"-artifact_prefix={tmp_path}/", corpus],
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT / "tests")},
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"Done {INPUTS} runs" in done.stderr
    print(done.stderr.strip().splitlines()[-1], f"{len(list(corpus.iterdir()))} inputs kept")


def mutated(random_: random.Random, seeds: list[bytes]) -> bytes:
    """A nasty body, made worse."""
    body = bytearray(random_.choice(seeds))
    for _ in range(random_.randint(1, 6)):
        at = random_.randint(0, len(body))
        kind = random_.random()
        if kind < 0.3:
            body[at:at] = random_.choice(ALPHABET)
        elif kind < 0.5:
            del body[at : at + random_.randint(1, 20)]
        elif kind < 0.7:
            body[at:at] = body[max(0, at - random_.randint(1, 50)) : at]
        elif kind < 0.9 and at < len(body):
            body[at] = random_.randrange(256)
        else:
            other = random_.choice(seeds)
            body[at:] = other[random_.randint(0, len(other)) :]
    return bytes(body[:20_000])


def replicas_memory(server: Server) -> int:
    return sum(
        process.memory_info().rss
        for process in server.process.children(recursive=True)
        if process.name().startswith("ray::Serve")
    )


class Traffic:
    """Clients that send generated bodies, and one beside them that sends the example and looks at each answer."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url)
        self._lock = threading.Lock()
        self._done = threading.Event()
        self.left = INPUTS
        self.statuses: Counter[int] = Counter()
        self.good = 0
        self.wrong: list[Any] = []
        self.slowest_s = 0.0

    def run(self) -> None:
        """Until all inputs are sent."""
        clients = [threading.Thread(target=self._send_bad, args=(number,)) for number in range(CLIENTS)]
        beside = threading.Thread(target=self._send_good)
        for thread in [*clients, beside]:
            thread.start()
        for thread in clients:
            thread.join()
        self._done.set()
        beside.join()

    def _ask(self, connection: http.client.HTTPConnection, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        start = time.monotonic()
        try:
            connection.request("POST", headers.pop("path", "/predict"), body, headers)
            response = connection.getresponse()
            answer = response.read()
        except (http.client.HTTPException, ConnectionError):
            connection.close()  # refused with the connection; a new one follows by itself
            return 0, b""
        with self._lock:
            self.slowest_s = max(self.slowest_s, time.monotonic() - start)
        return response.status, answer

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(str(self._address.hostname), self._address.port, timeout=30)

    def _send_bad(self, number: int) -> None:
        random_ = random.Random(SEED * 1000 + number)
        seeds = [path.read_bytes()[:5000] for path in sorted(CORPUS.iterdir())]
        with closing(self._connection()) as connection:
            while self._take():
                body = mutated(random_, seeds)
                headers = {"content-encoding": "gzip"} if random_.random() < 0.05 else {}
                if random_.random() < 0.05:
                    headers["x-request-id"] = "".join(random_.choices("abc \t\x7f'\"{}", k=random_.randint(0, 200))).strip()
                if random_.random() < 0.1:
                    headers["path"] = "/predict?on_error=report"
                status, answer = self._ask(connection, body, headers)
                with self._lock:
                    self.statuses[status] += 1
                    if status >= 500 or not (status in {0, 200} or _is_a_refusal(answer)):
                        self.wrong.append((status, body, answer[:500]))

    def _send_good(self) -> None:
        body = (PROJECT_ROOT / "data" / "reference" / "example.json").read_bytes()
        with closing(self._connection()) as connection:
            while not self._done.wait(0.01):
                status, answer = self._ask(connection, body, {})
                if status != 200 or json.loads(answer)[0]["probability_positiveclass"] != EXPECTED:
                    self.wrong.append((status, answer))
                self.good += 1

    def _take(self) -> bool:
        with self._lock:
            self.left -= 1
            return self.left >= 0


def _is_a_refusal(answer: bytes) -> bool:
    """Our JSON with its code, or what HAProxy or a replica's HTTP server say of headers."""
    if answer.startswith(b"<html><body><h1>400 ") or answer == b"Invalid HTTP request received.":
        return True
    try:
        return bool(json.loads(answer)["error"]["code"])
    except (ValueError, LookupError, TypeError):
        return False


def test_a_service_survives_generated_bodies_and_answers_the_good_traffic_beside_them(service: Server) -> None:
    warm_up = Traffic(service.url)
    warm_up.left = min(INPUTS, 2000)
    warm_up.run()
    before = replicas_memory(service)
    traffic = Traffic(service.url)
    start = time.monotonic()
    traffic.run()
    growth = replicas_memory(service) - before
    print(
        f"{traffic.statuses.total():,} inputs in {time.monotonic() - start:.0f} s: {dict(sorted(traffic.statuses.items()))}; "
        f"{traffic.good:,} good requests beside; the slowest answer took {traffic.slowest_s:.2f} s; "
        f"replicas grew by {growth / 1e6:.0f} MB"
    )
    assert traffic.wrong == []
    assert traffic.statuses.total() == INPUTS
    assert {200, 400, 422} <= traffic.statuses.keys()
    assert traffic.slowest_s < 30
    assert traffic.good > 0
    assert growth < MAX_GROWTH_BYTES
    assert all(process.is_running() for process in service.process.children(recursive=True) if process.name() == "haproxy")


def test_the_service_keeps_what_its_openapi_document_says(service: Server) -> None:
    examples = max(50, INPUTS // 100)
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
