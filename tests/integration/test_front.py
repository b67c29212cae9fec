"""HAProxy as it stands before the service: slow, large, many and ambiguous requests, TLS.

Behind it is a server that only counts.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket
import ssl
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests
from support.certificates import write_certificate
from support.fronting import Front, run_front
from support.serving import free_port, wait_until

from serve_app.errors import ErrorBody
from serve_app.operations import haproxy_front as front


class Upstream(ThreadingHTTPServer):
    """Answers everything, and knows what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.may_answer = threading.Event()
        """Until it is set, what was asked for ``/held`` is not answered."""


class Handler(BaseHTTPRequestHandler):
    server: Upstream
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        if self.path != "/-/healthz":
            self.server.asked.append(self.path)
        self.rfile.read(int(self.headers.get("content-length", 0)))
        while "chunked" in self.headers.get("transfer-encoding", "") and (size := int(self.rfile.readline(), 16)):
            self.rfile.read(size + 2)
        if self.path == "/held":
            self.server.may_answer.wait(20)
        with contextlib.suppress(ConnectionError):  # HAProxy may have refused the rest meanwhile
            if self.path == "/broken":
                self.wfile.write(b"this is not HTTP\r\n\r\n")
                return
            self.send_response(404 if self.path.startswith("/absent") else 200)
            if self.path.endswith("?of=the-application"):
                self.send_header("x-model-version", "1.0.0")
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

    do_GET = do_POST = answer  # noqa: N815 - http.server looks for these names

    def log_message(self, format: str, *_: Any) -> None:  # noqa: A002 - http.server's name
        del format


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def haproxy(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[Front]:
    limits = {front.HEADER_TIMEOUT: "1", front.CONNECTIONS: "0"}
    with run_front(tmp_path_factory.mktemp("front"), upstream.server_address[1], limits) as running:
        yield running


def answer_to(haproxy: Front, request: bytes) -> tuple[int, bytes]:
    """Status and body of the first answer to raw bytes."""
    with haproxy.connect() as connection:
        connection.sendall(request)
        with contextlib.closing(http.client.HTTPResponse(connection)) as response:
            response.begin()
            return response.status, response.read()


def test_nothing_but_the_service_listens_beyond_this_machines_own_address(haproxy: Front) -> None:
    listening = [item.laddr.ip for item in haproxy.process.net_connections("inet") if item.status == "LISTEN"]
    assert listening == ["127.0.0.1"] * 3
    assert stat.S_IMODE(haproxy.admin_socket.stat().st_mode) == 0o600


def test_headers_that_trickle_are_refused_in_time(haproxy: Front) -> None:
    with haproxy.connect() as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\n")
        for _ in range(20):  # never idle, never done: after a second of it HAProxy has had enough
            if select.select([connection], [], [], 0.25)[0]:
                break
            connection.sendall(b"x-more: to come\r\n")
        else:
            pytest.fail("HAProxy waits for more headers")
        assert connection.recv(1024).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    "headers", [b"x-long: " + b"a" * 20_000, b"\r\n".join(b"x-%d: many" % number for number in range(2000))]
)
def test_headers_that_are_too_large_are_refused(haproxy: Front, headers: bytes) -> None:
    status, _ = answer_to(haproxy, b"GET /model HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n\r\n")
    assert status == 400


def test_one_address_has_a_limited_number_of_connections(tmp_path: Path, upstream: Upstream) -> None:
    request = b"GET /once HTTP/1.1\r\nHost: x\r\n\r\n"
    with run_front(tmp_path, upstream.server_address[1], {front.CONNECTIONS: "3"}) as haproxy:
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                connection = stack.enter_context(haproxy.connect())
                connection.sendall(request)
                assert connection.recv(1024).startswith(b"HTTP/1.1 200 ")
            status, body = answer_to(haproxy, request)
            assert (status, json.loads(body)["error"]["code"]) == (429, "too_many_requests")
        wait_until(lambda: answer_to(haproxy, request) == (200, b"ok"), "room for another connection", 10)


HTTP_2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # its preface and empty settings


def test_a_client_cannot_start_with_http_2_by_which_one_connection_would_hold_many_requests(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, haproxy: Front, upstream: Upstream
) -> None:
    assert answer_to(haproxy, HTTP_2)[0] == 400
    certificate, key = write_certificate(tmp_path_factory.mktemp("tls"))
    tls = {front.CERTIFICATE: str(certificate), front.KEY: str(key)}
    context = ssl.create_default_context(cafile=str(certificate))
    context.set_alpn_protocols(["h2"])
    with (
        run_front(tmp_path, upstream.server_address[1], tls) as hardened,
        hardened.connect() as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        assert connection.selected_alpn_protocol() is None
        connection.sendall(HTTP_2)
        assert connection.recv(64).startswith(b"HTTP/1.1 400 ")


def test_a_client_that_has_closed_its_sending_half_gets_its_answer(haproxy: Front, upstream: Upstream) -> None:
    upstream.may_answer.clear()
    with haproxy.connect() as connection:
        connection.sendall(b"POST /held HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n[]")
        connection.shutdown(socket.SHUT_WR)
        assert select.select([connection], [], [], 0.5)[0] == []  # an error would come at once
        upstream.may_answer.set()
        assert connection.recv(1024).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (b"PRI * HTTP/2.0\r\n\r\n", 400, "bad_request"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551616\r\n\r\n", 400, "bad_request"),
        (b"POST /stalled HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n[", 400, "bad_request"),
        (b"GET /broken HTTP/1.1\r\nHost: x\r\n\r\n", 502, "unavailable"),
        (b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n", 504, "unavailable"),
        (b"GET /-/routes HTTP/1.1\r\nHost: x\r\n\r\n", 404, "not_found"),
        (b"GET /-/ROUTES?x HTTP/1.1\r\nHost: x\r\n\r\n", 404, "not_found"),
    ],
)
def test_what_haproxy_refuses_has_the_body_of_all_other_errors(
    haproxy: Front, upstream: Upstream, request_: bytes, status: int, code: str
) -> None:
    upstream.may_answer.clear()
    with haproxy.connect() as connection:
        connection.sendall(request_)
        with contextlib.closing(http.client.HTTPResponse(connection)) as response:
            response.begin()
            body = response.read()
            assert (response.status, response.headers["content-type"]) == (status, "application/json")
            assert response.headers["retry-after"] == ("1" if status > 500 else None)
    upstream.may_answer.set()
    message = msgspec.json.decode(body, type=ErrorBody).error.message
    assert body == msgspec.json.encode(ErrorBody.of(code, message))


def test_while_no_replica_can_be_reached_the_service_is_unavailable(tmp_path: Path) -> None:
    with run_front(tmp_path, free_port(), {}) as haproxy:
        answer = requests.post(f"http://127.0.0.1:{haproxy.port}/predict", data="[]", timeout=20)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["error"]["code"] == "unavailable"


def test_while_there_is_no_application_yet_the_service_is_unavailable_and_its_path_not_unknown(
    tmp_path: Path, haproxy: Front
) -> None:
    def check(answer: requests.Response) -> None:
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        error = {"code": "unavailable", "message": "the service has not started yet; try again"}
        assert answer.json()["error"] == {**error, "request_id": "", "rows": [], "bad_rows": 0}

    # Ray Serve's own proxy, instead of a replica, knows no path, and says so as it always does.
    check(requests.post(f"http://127.0.0.1:{haproxy.port}/absent", data="[]", timeout=20))
    assert requests.get(f"http://127.0.0.1:{haproxy.port}/absent?of=the-application", timeout=20).status_code == 404
    # HAProxy itself, to which Ray Serve has not told of any application.
    with run_front(tmp_path, None, {}) as alone:
        check(requests.post(f"http://127.0.0.1:{alone.port}/predict", data="[]", timeout=20))
        assert requests.head(f"http://127.0.0.1:{alone.port}/ready", timeout=20).status_code == 503
        assert requests.get(f"http://127.0.0.1:{alone.port}/-/unknown", timeout=20).status_code == 404


INNER = b"GET /smuggled00 HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"0\r\n\r\n" + INNER
START = b"POST /outer00 HTTP/1.1\r\nHost: x\r\n"
# Requests on whose end two servers might differ: what the one takes for a body is the next request to the other.
AMBIGUOUS = {
    "two lengths": START + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(INNER) + INNER,
    "two lengths in a line": START + b"Content-Length: 0, %d\r\n\r\n" % len(INNER) + INNER,
    "a signed length": START + b"Content-Length: +%d\r\n\r\n" % len(INNER) + INNER,
    "a hexadecimal length": START + b"Content-Length: 0x%x\r\n\r\n" % len(INNER) + INNER,
    "a length with a blank": START + b"Content-Length: 0 %d\r\n\r\n" % len(INNER) + INNER,
    "a negative length": START + b"Content-Length: -1\r\n\r\n" + INNER,
    "a length of 2**64": START + b"Content-Length: 18446744073709551616\r\n\r\n" + INNER,
    "a length of 2**64 + 1": START + b"Content-Length: 18446744073709551617\r\n\r\n" + INNER,
    "a blank before the colon": START + b"Content-Length : 0\r\n\r\n" + INNER,
    "a length in an underscore": START + b"Content_Length: 0\r\nContent-Length: %d\r\n\r\n" % len(INNER) + INNER,
    "chunked and a length": START + b"Transfer-Encoding: chunked\r\nContent-Length: %d\r\n\r\n" % len(CHUNKED) + CHUNKED,
    "a length and chunked": START + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % len(CHUNKED) + CHUNKED,
    "chunked twice": START + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED,
    "chunked, not last": START + b"Transfer-Encoding: chunked, identity\r\nContent-Length: %d\r\n\r\n" % len(CHUNKED) + CHUNKED,
    "nearly chunked": START + b"Transfer-Encoding: xchunked\r\nContent-Length: %d\r\n\r\n" % len(CHUNKED) + CHUNKED,
    "chunked behind a tab": START + b"Transfer-Encoding:\x0bchunked\r\nContent-Length: %d\r\n\r\n" % len(CHUNKED) + CHUNKED,
    "chunked in quotes": START + b'Transfer-Encoding: "chunked"\r\nContent-Length: %d\r\n\r\n' % len(CHUNKED) + CHUNKED,
    "chunked in HTTP/1.0": START.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + CHUNKED,
    "a folded header": START + b"Transfer-Encoding:\r\n chunked\r\nContent-Length: %d\r\n\r\n" % len(CHUNKED) + CHUNKED,
    "a chunk size of junk": START + b"Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n" + INNER,
    "a signed chunk size": START + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n" + INNER,
    "a huge chunk size": START + b"Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n\r\n" + INNER,
    "a bare carriage return": START + b"X: y\rContent-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(INNER) + INNER,
    "a zero byte in a header": START + b"X: \x00\r\nContent-Length: 0\r\n\r\n" + INNER,
    "a zero byte in a name": START + b"Content-Length\x00: 0\r\nContent-Length: %d\r\n\r\n" % len(INNER) + INNER,
    "a body of a GET": START.replace(b"POST", b"GET") + b"Content-Length: %d\r\n\r\n" % len(INNER) + INNER,
}


@pytest.fixture(scope="module")
def outcomes(haproxy: Front, upstream: Upstream) -> dict[str, tuple[bytes, list[str]]]:
    """By shape: all that the client gets until the connection is closed, and which paths the server behind was asked for."""

    def send(number: int, request: bytes) -> tuple[bytes, list[str]]:
        # Each shape has paths of its own: they are sent at once, because HAProxy keeps some connections open for a while.
        outer, inner = f"/outer{number:02}", f"/smuggled{number:02}"
        assert len(INNER) == len(INNER.replace(b"/smuggled00", inner.encode()))
        with haproxy.connect() as connection:
            connection.sendall(request.replace(b"/outer00", outer.encode()).replace(b"/smuggled00", inner.encode()))
            answers = connection.makefile("rb").read()
        return answers, [path for path in upstream.asked if path in {outer, inner}]

    with ThreadPoolExecutor(max_workers=len(AMBIGUOUS)) as pool:
        return dict(zip(AMBIGUOUS, pool.map(send, range(len(AMBIGUOUS)), AMBIGUOUS.values()), strict=True))


@pytest.mark.parametrize("shape", AMBIGUOUS)
def test_no_request_is_hidden_in_another(outcomes: dict[str, tuple[bytes, list[str]]], shape: str) -> None:
    answers, asked = outcomes[shape]
    # At most one answer, to the one request: nobody behind this client would get the answer to what was hidden.
    assert answers.count(b"HTTP/1.1 ") <= 1
    assert not any("smuggled" in path for path in asked)


def test_an_ordinary_request_behind_another_is_no_such_shape(haproxy: Front, upstream: Upstream) -> None:
    with haproxy.connect() as connection:
        connection.sendall(START + b"Content-Length: 0\r\n\r\n" + INNER)
        assert connection.makefile("rb").read().count(b"HTTP/1.1 200 ") == 2
    assert upstream.asked[-2:] == ["/outer00", "/smuggled00"]


def test_tls_serves_https_and_nothing_older_or_plainer(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, upstream: Upstream
) -> None:
    certificate, key = write_certificate(tmp_path_factory.mktemp("tls"))
    tls = {front.CERTIFICATE: str(certificate), front.KEY: str(key)}
    with run_front(tmp_path, upstream.server_address[1], tls) as haproxy:
        url = f"https://127.0.0.1:{haproxy.port}/model"
        assert requests.get(url, verify=str(certificate), timeout=20).text == "ok"
        with pytest.raises(requests.exceptions.SSLError):
            requests.get(url, timeout=20)  # signed by nobody that this machine trusts
        with pytest.raises(requests.exceptions.ConnectionError):
            requests.get(url.replace("https", "http"), timeout=20)
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with haproxy.connect() as connection, pytest.raises(OSError, match=r"(?i)ssl|tls|reset"):
            old.wrap_socket(connection)
        (combined,) = tmp_path.glob("*.pem")
        assert stat.S_IMODE(combined.stat().st_mode) == 0o600
