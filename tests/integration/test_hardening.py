"""A service with all defences up, as an attacker meets it: keys, TLS, limits, Ray's own ports, logs.

What HAProxy alone refuses is test_front.py's, malicious components are tests/unit/test_provenance.py's.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import pickle
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPSConnection
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import grpc
import psutil
import pytest
import requests
import yaml
from ray.serve.generated import serve_pb2, serve_pb2_grpc
from support.documents import find_block
from support.serving import Server, run_command, serve, wait_until, write_config

from serve_app.api.key_file import make_key, read_keys, revoke_key
from serve_app.config import PROJECT_ROOT

CORPUS = sorted((PROJECT_ROOT / "tests" / "corpus").iterdir())
EMPTY = gzip.compress(b"[]", mtime=0)  # test names must be the same in each process
MAX_BODY_BYTES = 40_000_000
LOGGED = "the-id-of-a-request-that-is-logged"
SECRET = "a-value-of-a-row"  # noqa: S105 - what must not appear in a log


class Hardened(NamedTuple):
    """A running service, the file of its keys, and a key for everything."""

    server: Server
    keys_file: Path
    key: str
    certificate: Path

    def predict(self, body: bytes | str, key: str | None = None, **headers: str) -> requests.Response:
        """POST /predict with a key."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.server.predict(body, headers={"authorization": f"Bearer {key or self.key}", **headers})

    def make_key(self, name: str, **limits: Any) -> str:
        """A key that the service knows already."""
        key = make_key(self.keys_file, name, **limits)
        wait_until(lambda: self.get("/nowhere", key).status_code == 404, "a key that is known", 10)
        return key

    def get(self, path: str, key: str | None) -> requests.Response:
        """GET, with a key or without."""
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return requests.get(f"{self.server.url}{path}", headers=headers, timeout=30)

    @contextmanager
    def connect(self) -> Iterator[ssl.SSLSocket]:
        """A connection on which a test says what it likes."""
        address = urlsplit(self.server.url)
        context = ssl.create_default_context(cafile=str(self.certificate))
        with (
            socket.create_connection((address.hostname, address.port), timeout=60) as plain,
            context.wrap_socket(plain, server_hostname=address.hostname) as connection,
        ):
            yield connection


def security_block(language: str, word: str, folder: Path) -> str:
    """The block of docs/security.md that has ``word`` in it, with ``folder`` instead of config/."""
    return find_block("docs/security.md", language, word).replace("config/", f"{folder}/")


@pytest.fixture(scope="module")
def hardened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hardened]:
    folder = tmp_path_factory.mktemp("hardened")
    make_certificate, _ = security_block("sh", "openssl req", folder).replace("\\\n", "").splitlines()
    subprocess.run(["bash", "-c", make_certificate], check=True, timeout=60, capture_output=True)
    tls = yaml.safe_load(security_block("yaml", "ssl_certfile", folder))
    certificate = Path(tls["ssl_certfile"])
    keys_file = folder / "keys.json"
    key = make_key(keys_file, "everything")

    def edit(config: dict[str, Any]) -> None:
        # Beyond loopback, so that it shows what comes along.
        config["http_options"]["host"] = "0.0.0.0"  # noqa: S104 - that is it
        config["http_options"] |= tls
        (application,) = config["applications"]
        application["args"]["access"]["keys_file"] = str(keys_file)
        application["args"]["limits"] |= {"max_body_bytes": MAX_BODY_BYTES, "send_timeout_s": 3.0}
        for deployment in application["deployments"]:
            deployment["autoscaling_config"]["max_replicas"] = 1

    config, url = write_config(folder, edit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        with serve(run_command(config), url.replace("http:", "https:")) as server:
            yield Hardened(server, keys_file, key, certificate)


@pytest.fixture
def row(example: dict[str, Any]) -> str:
    return json.dumps([example])


# Who may ask


@pytest.mark.parametrize(
    "path", ["/predict", "/model", "/drift", "/", "/nowhere", "/predict/", "//predict", "/docs/../model", "/%70redict"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_without_a_key_nothing_is_told_but_that_one_is_needed(hardened: Hardened, method: str, path: str) -> None:
    request = requests.Request(method, hardened.server.url, data="[]" if method == "POST" else None).prepare()
    request.url = f"{hardened.server.url}{path}"  # as it stands: requests would tidy it up
    with requests.Session() as session:
        session.verify = str(hardened.certificate)
        response = session.send(request, timeout=30)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == 'Bearer realm="class-prediction"'
    if method != "HEAD":
        assert response.json()["error"]["code"] == "unauthorized"


@pytest.mark.parametrize("path", ["/health", "/ready", "/docs", "/openapi.json", "/docs/assets/swagger-ui.css"])
def test_health_and_documentation_are_for_everybody(hardened: Hardened, path: str) -> None:
    assert hardened.get(path, None).status_code == 200


def test_the_documentation_says_that_a_key_is_needed(hardened: Hardened) -> None:
    document = hardened.get("/openapi.json", None).json()
    assert document["components"]["securitySchemes"] == {"apiKey": {"type": "http", "scheme": "bearer"}}
    for path, method in (("/predict", "post"), ("/model", "get"), ("/drift", "get")):
        operation = document["paths"][path][method]
        assert operation["security"] == [{"apiKey": []}]
        assert {"401", "403", "429"} <= operation["responses"].keys()


def test_a_key_opens_what_it_is_for_and_nothing_else(hardened: Hardened, row: str) -> None:
    assert hardened.predict(row).json()[0]["probability_positiveclass"] == 0.36208864382410294
    assert hardened.get("/model", hardened.key).json()["name"] == "glm-26"
    narrow = hardened.make_key("narrow", scopes=["model"])
    assert hardened.get("/model", narrow).status_code == 200
    assert hardened.get("/drift", narrow).status_code == 404  # the published model has no training rows to compare with
    assert hardened.get("/drift", hardened.make_key("asks", scopes=["predict"])).status_code == 403
    refused = hardened.predict(row, narrow)
    assert refused.status_code == 403
    assert refused.json()["error"]["code"] == "forbidden"
    challenge = 'Bearer realm="class-prediction", error="insufficient_scope", scope="predict"'
    assert refused.headers["www-authenticate"] == challenge


def test_a_wrong_key_is_refused_as_the_standard_says(hardened: Hardened, row: str) -> None:
    refused = hardened.predict(row, f"{hardened.key[:-4]}XXXX")
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == 'Bearer realm="class-prediction", error="invalid_token"'
    assert refused.headers["x-model-version"].startswith("1.0.0+")


def test_keys_come_and_go_while_the_service_runs(hardened: Hardened, row: str) -> None:
    old, new = hardened.make_key("old"), hardened.make_key("new")
    assert [hardened.predict(row, key).status_code for key in (old, new)] == [200, 200]
    revoke_key(hardened.keys_file, old[3:11])
    wait_until(lambda: hardened.predict(row, old).status_code == 401, "a revoked key that is refused", 10)
    assert hardened.predict(row, new).status_code == 200
    assert old[3:11] not in {key.id for key in read_keys(hardened.keys_file)}


def test_a_key_that_asks_too_often_is_told_when_to_come_back(hardened: Hardened, row: str) -> None:
    key = hardened.make_key("slow", requests_per_s=0.2)  # learning that it is known was its one request in five seconds
    refused = hardened.predict(row, key)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "too_many_requests"
    assert 1 <= int(refused.headers["retry-after"]) <= 5
    assert hardened.predict(row).status_code == 200


def test_a_key_has_a_limited_number_of_requests_at_once(hardened: Hardened, row: str) -> None:
    key = hardened.make_key("alone", requests_at_once=1)
    with hardened.connect() as connection:
        connection.sendall(head(key, b"Content-Length: 9") + b"[")  # and no more
        wait_until(lambda: hardened.predict(row, key).status_code == 429, "a second request that is refused", 10)
    wait_until(lambda: hardened.predict(row, key).status_code == 200, "room for another request", 30)


def head(key: str, *headers: bytes) -> bytes:
    lines = [b"POST /predict HTTP/1.1", b"Host: x", b"Authorization: Bearer %s" % key.encode(), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def test_a_strangers_body_is_not_waited_for(hardened: Hardened) -> None:
    with hardened.connect() as connection:
        connection.sendall(head("cp_00000000_" + "x" * 43, b"Content-Length: 1000000") + b"[")
        assert connection.recv(1024).startswith(b"HTTP/1.1 401 ")


def status_of_upload(hardened: Hardened, key: str, parts: list[bytes] | bytes) -> int:
    """The status that Python's own client sees: unlike others, it does not look for one once the pipe is broken."""
    address = urlsplit(hardened.server.url)
    context = ssl.create_default_context(cafile=str(hardened.certificate))
    with closing(HTTPSConnection(str(address.hostname), address.port, timeout=60, context=context)) as connection:
        headers = {"authorization": f"Bearer {key}"}
        connection.request("POST", "/predict", parts, headers, encode_chunked=isinstance(parts, list))
        return connection.getresponse().status


def test_a_stranger_who_sends_a_large_body_sees_the_status_and_no_broken_pipe(hardened: Hardened) -> None:
    for _ in range(3):
        assert status_of_upload(hardened, "cp_00000000_" + "x" * 43, bytes(20_000_000)) == 401


def test_a_client_that_sends_too_much_sees_the_status_and_no_broken_pipe(hardened: Hardened) -> None:
    for _ in range(3):
        assert status_of_upload(hardened, hardened.key, [b" " * 1_000_000] * 60) == 413


@pytest.mark.parametrize("path", ["/-/routes", "/-/Routes", "/-/routes?x=1"])
def test_the_names_of_ray_serves_applications_are_told_to_nobody(hardened: Hardened, path: str) -> None:
    for key in (None, hardened.key):
        response = hardened.get(path, key)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
        assert "class-prediction" not in response.text


def test_plain_http_gets_no_answer_where_there_is_tls(hardened: Hardened) -> None:
    with pytest.raises(requests.ConnectionError):
        requests.get(hardened.server.url.replace("https", "http") + "/health", timeout=30)


def test_with_tls_the_documented_curl_and_a_containers_health_check_are_answered(hardened: Hardened) -> None:
    _, curl = security_block("sh", "openssl req", hardened.certificate.parent).replace("\\\n", "").splitlines()
    curl = curl.replace("https://127.0.0.1:1313", hardened.server.url)
    assert subprocess.run(["bash", "-c", curl], check=True, capture_output=True, timeout=60).stdout == b'{"status":"ready"}'
    config = hardened.server.process.cmdline()[-1]
    command = [sys.executable, "-m", "serve_app", "ready", "--config", config]
    asked = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert asked.stdout == f"{hardened.server.url}/ready: ready\n"


# What may be sent


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_a_nasty_body_has_the_status_of_its_name(hardened: Hardened, path: Path) -> None:
    response = hardened.predict(path.read_bytes())
    assert str(response.status_code) == path.name[:3], response.text[:300]
    assert response.text.isprintable() or response.status_code == 200


def test_a_gzip_body_is_answered_like_the_plain_one(hardened: Hardened, row: str) -> None:
    packed = hardened.predict(gzip.compress(row.encode()), content_encoding="gzip")
    assert (packed.status_code, packed.json()) == (200, hardened.predict(row).json())


def test_a_gzip_bomb_is_too_large_and_never_held(hardened: Hardened) -> None:
    bomb = gzip.compress(b"[" + b" " * 5 * MAX_BODY_BYTES, 9)
    before = memory_of(hardened.server)
    refused = hardened.predict(bomb, content_encoding="gzip")
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "body_too_large")
    assert memory_of(hardened.server) - before < 4 * MAX_BODY_BYTES


@pytest.mark.parametrize(
    ("body", "encoding", "status", "code"),
    [
        (b"[]", "gzip", 400, "malformed_gzip"),
        (EMPTY[:-3], "gzip", 400, "malformed_gzip"),
        (gzip.compress(EMPTY, mtime=0), "gzip", 400, "malformed_json"),
        (gzip.compress(EMPTY, mtime=0), "gzip, gzip", 415, "unsupported_encoding"),
        (b"[]", "br", 415, "unsupported_encoding"),
    ],
)
def test_what_is_no_single_gzip_is_refused(hardened: Hardened, body: bytes, encoding: str, status: int, code: str) -> None:
    refused = hardened.predict(body, content_encoding=encoding)
    assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)


def memory_of(server: Server) -> int:
    """Resident bytes of all replicas."""
    replicas = [process for process in server.process.children(recursive=True) if process.name().startswith("ray::Serve")]
    assert replicas
    return sum(process.memory_info().rss for process in replicas)


def test_headers_that_steer_ray_serve_are_ignored(hardened: Hardened, example: dict[str, Any]) -> None:
    # Ray Serve would end a request of this many rows with 408 after that little time.
    headers = {"x_request_timeout_seconds": "0.000001", "x_request_disconnect_disabled": "?0", "x_session_id": "x"}
    assert hardened.predict(json.dumps([example] * 1000), **headers).status_code == 200


def test_a_request_id_that_could_forge_is_replaced_and_a_long_one_too(hardened: Hardened, row: str) -> None:
    assert hardened.predict(row, x_request_id="mine-1").headers["x-request-id"] == "mine-1"
    for forged in ("a b", "x" * 129, "\x1b[31m", "\u0085"):
        with hardened.connect() as connection:
            raw = b"X-Request-Id: " + forged.encode("latin-1")
            connection.sendall(head(hardened.key, raw, b"Content-Length: 2", b"Connection: close") + b"[]")
            answer = connection.makefile("rb").read()
        if answer.startswith(b"HTTP/1.1 200 "):
            (given,) = re.findall(rb"(?i)^x-request-id: (.*)\r$", answer, re.MULTILINE)
            assert re.fullmatch(rb"[0-9a-f-]{36}", given)
        else:
            assert answer.startswith(b"HTTP/1.1 400 ")


def test_a_client_that_does_not_take_its_answers_loses_its_place(hardened: Hardened, example: dict[str, Any], row: str) -> None:
    key = hardened.make_key("greedy", requests_at_once=1)
    used = {name: example[name] for name in ("x53", "x44", "x81", "x12", "x31", "x58", "x5", "x62", "x91", "x56")}
    body = gzip.compress(json.dumps([used] * 100_000).encode())
    with hardened.connect() as connection:
        headers = (b"Content-Length: %d" % len(body), b"Content-Encoding: gzip", b"X-Request-Id: %s" % LOGGED.encode())
        connection.sendall(head(key, *headers) + body)
        assert connection.recv(64).startswith(b"HTTP/1.1 200 ")  # and not a byte more of 20 MB
        assert hardened.predict(row, key).status_code == 429
        wait_until(lambda: hardened.predict(row, key).status_code == 200, "the place of who takes no answer", 30)
    assert [record.get("request_id") for record in records_of_replicas(hardened.server)].count(LOGGED) == 1


# What else listens


def listening(server: Server) -> list[tuple[str, int, str]]:
    """Address, port and process of each listening socket of the service."""
    found = []
    for process in [server.process, *server.process.children(recursive=True)]:
        try:
            connections = process.net_connections("inet")
        except psutil.NoSuchProcess:
            continue
        found += [(item.laddr.ip, item.laddr.port, process.name()) for item in connections if item.status == "LISTEN"]
    return found


def test_nothing_but_the_services_own_port_listens_beyond_loopback(hardened: Hardened) -> None:
    found = listening(hardened.server)
    assert {"haproxy", "gcs_server", "raylet"} <= {name for _, _, name in found}
    beyond = {(port, name) for address, port, name in found if not is_loopback(address)}
    assert beyond == {(urlsplit(hardened.server.url).port, "haproxy")}
    # The one fixed port of Ray Serve's that two services on a machine would share, and answer for each other.
    assert 8500 not in {port for _, port, _ in found}


def test_the_ways_around_haproxy_ask_for_a_key_too(hardened: Hardened, row: str) -> None:
    statuses = {}
    for _, port, name in listening(hardened.server):
        if name.startswith(("ray::ServeReplica", "ray::ProxyActor")):
            with contextlib.suppress(requests.RequestException):  # a port that does not speak HTTP
                statuses[name, port] = requests.post(f"http://127.0.0.1:{port}/predict", data=row, timeout=10).status_code
    assert set(statuses.values()) == {401}
    for _, port in statuses:
        assert requests.get(f"http://127.0.0.1:{port}/-/routes", timeout=10).status_code == 404
    assert len(statuses) == 2  # the replica's own port, and that of the proxy that Ray Serve keeps for when there is no replica


def is_loopback(address: str) -> bool:
    """Also of an IPv4 address on an IPv6 socket."""
    found = ip_address(address)
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


class Payload:
    """Harmless: makes a folder when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.proof),)


def auth_token() -> str:
    return (Path.home() / ".ray" / "auth_token").read_text().strip()


def replica_ports(server: Server) -> list[int]:
    return [port for _, port, name in listening(server) if name.startswith("ray::Serve")]


def send_pickle(port: int, proof: Path, metadata: list[tuple[str, str]]) -> grpc.StatusCode:
    """What a port answers to a call between replicas that carries a pickle."""
    with closing(grpc.insecure_channel(f"127.0.0.1:{port}")) as channel:
        call = serve_pb2_grpc.ASGIServiceStub(channel).HandleRequest
        try:
            call(serve_pb2.ASGIRequest(pickled_request_metadata=pickle.dumps(Payload(proof))), metadata=metadata, timeout=20)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return grpc.StatusCode.OK


def test_a_pickle_for_a_replica_is_not_opened_without_the_token(hardened: Hardened, tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    codes = set()
    for port in replica_ports(hardened.server):
        for metadata in ([], [("authorization", "Bearer " + "0" * 64)], [("authorization", auth_token()[:-1])]):
            codes.add(send_pickle(port, proof, metadata))
    assert grpc.StatusCode.UNAUTHENTICATED in codes
    assert not proof.exists()
    # With the token it would be: whoever has it may do everything, and the payload is one that works.
    for port in replica_ports(hardened.server):
        send_pickle(port, proof, [("authorization", f"Bearer {auth_token()}")])
    assert proof.exists()


def dashboard_of(server: Server) -> str:
    (url,) = re.findall(r"Dashboard: +(\S+)/#/serve", server.log.read_text())
    return str(url)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/jobs/"),
        ("GET", "/api/jobs/"),
        ("GET", "/api/serve/applications/"),
        ("PUT", "/api/serve/applications/"),
        ("DELETE", "/api/serve/applications/"),
        ("GET", "/nodes?view=summary"),
        ("GET", "/api/v0/logs"),
    ],
)
@pytest.mark.parametrize("host", [None, "attacker.example"])
def test_the_dashboard_and_its_job_api_refuse_strangers(
    hardened: Hardened, method: str, path: str, host: str | None, tmp_path: Path
) -> None:
    url = f"{dashboard_of(hardened.server)}{path}"
    job = {"entrypoint": f"mkdir {tmp_path / 'executed'}"}
    named = {} if host is None else {"host": host, "origin": f"http://{host}"}
    for token in (None, "0" * 64):
        headers = named if token is None else {**named, "authorization": f"Bearer {token}"}
        response = requests.request(method, url, json=job if method in {"POST", "PUT"} else None, headers=headers, timeout=30)
        assert response.status_code in {401, 403}
        assert "access-control-allow-origin" not in response.headers
    assert not (tmp_path / "executed").exists()


def test_the_dashboard_knows_its_token(hardened: Hardened) -> None:
    # Otherwise a dashboard that refuses everything would pass the test above.
    url = f"{dashboard_of(hardened.server)}/api/serve/applications/"
    assert requests.get(url, headers={"authorization": f"Bearer {auth_token()}"}, timeout=30).status_code == 200


def test_no_grpc_port_of_ray_answers_without_the_token(hardened: Hardened) -> None:
    answered = {}
    for _, port, name in listening(hardened.server):
        for method in ("/ray.rpc.NodeInfoGcsService/GetAllNodeInfo", "/ray.rpc.CoreWorkerService/PushTask",
                       "/ray.rpc.NodeManagerService/GetNodeStats"):  # fmt: skip
            code = call(port, method, [])
            if code is not None:
                answered[name, port, method] = code
    open_methods = {
        key: code for key, code in answered.items() if code in {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}
    }
    assert grpc.StatusCode.UNAUTHENTICATED in answered.values()
    assert open_methods == {}


def call(port: int, method: str, metadata: list[tuple[str, str]]) -> grpc.StatusCode | None:
    """The status of an empty call of a gRPC method; None where nobody speaks gRPC."""
    with closing(grpc.insecure_channel(f"127.0.0.1:{port}")) as channel:
        raw = channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes)
        try:
            raw(b"", metadata=metadata, timeout=5)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return None if code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED} else code
    return grpc.StatusCode.OK


# What stays behind


def test_logs_are_json_hold_no_value_of_a_row_and_no_key(hardened: Hardened, example: dict[str, Any]) -> None:
    forged = f'{SECRET}\n{{"levelname": "ERROR", "message": "forged"}}'
    for column in ("x53", "x5"):
        hardened.predict(json.dumps({**example, column: forged}), x_request_id="logged-1")
    files = [path for path in log_folder(hardened.server).rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        text = path.read_text(encoding="utf-8", errors="replace")
        assert SECRET not in text, path
        assert hardened.key not in text, path
    assert "forged" not in {record["message"] for record in records_of_replicas(hardened.server)}


def records_of_replicas(server: Server) -> list[dict[str, Any]]:
    """What the replicas have logged; each line is a JSON object, or this fails."""
    paths = sorted((log_folder(server) / "serve").glob("replica_*.log"))
    assert paths
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]


def log_folder(server: Server) -> Path:
    """Of the Ray session that the service runs."""
    commands = " ".join(word for process in server.process.children(recursive=True) for word in process.cmdline())
    (folder,) = set(re.findall(r"--log[-_]dir=(\S+)", commands))
    return Path(folder)
