"""Reading a body and writing an error, without a server; what a client sees of them is tests/integration/test_api.py's."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from starlette.exceptions import HTTPException

from serve_app.api.body import ClientGoneError, read_body
from serve_app.api.body_budget import Admission, Held
from serve_app.api.inflate import Inflater
from serve_app.api.key_file import Scope, make_key
from serve_app.api.responses import error_response
from serve_app.api.routes import build_http_app
from serve_app.components.compiled import Components
from serve_app.config import AccessSettings, Limits, Settings
from serve_app.errors import (
    BodyTooLargeError,
    BodyTooSlowError,
    InvalidRowsError,
    MalformedJSONError,
    ScoringError,
    TooManyRowsError,
)
from serve_app.serving.pipeline import Pipeline

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

    return bytes(asyncio.run(read_body({"headers": list(headers)}, receive, limits, Held(Admission(10**9)))))


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
        asyncio.run(read_body({"headers": []}, trickle, LIMITS, Held(Admission(10**9))))


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


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (MalformedJSONError("x", 1), 400, "malformed_json"),
        (BodyTooSlowError(), 408, "request_timeout"),
        (BodyTooLargeError(1), 413, "body_too_large"),
        (TooManyRowsError(1), 413, "too_many_rows"),
        (ScoringError("lost"), 503, "unavailable"),
        (TimeoutError(), 503, "unavailable"),
        (RuntimeError("secret"), 500, "internal_error"),
    ],
)
def test_an_error_has_its_status_and_code_and_tells_no_secret(error: Exception, status: int, code: str) -> None:
    found, headers, pieces = error_response({"headers": [(b"x-request-id", b"abc")]}, error)
    body = json.loads(b"".join(pieces))["error"]
    assert (found, body["code"], body["request_id"]) == (status, code, "abc")
    assert "secret" not in body["message"]
    assert (b"retry-after" in dict(headers)) == (status == 503)
    assert (b"connection" in dict(headers)) == (status in {408, 413})


def test_what_is_unforeseen_is_logged_with_its_place_and_without_what_it_quotes(caplog: pytest.LogCaptureFixture) -> None:
    value = "a value" + " of a row"
    try:
        float(value)
    except ValueError as error:
        error_response({"headers": [(b"x-request-id", b"abc")]}, error)
    assert "request abc failed: ValueError" in caplog.text
    assert "test_what_is_unforeseen_is_logged" in caplog.text
    assert value not in "".join(record.getMessage() for record in caplog.records)


def test_an_error_of_invalid_rows_has_the_code_of_the_first() -> None:
    from serve_app.errors import FieldProblem

    problems = [FieldProblem(2, "x", "missing_field", "m"), FieldProblem(3, "x", "not_a_number", "n")]
    status, _, pieces = error_response({"headers": []}, InvalidRowsError(problems))
    body = json.loads(b"".join(pieces))["error"]
    assert (status, body["code"], body["bad_rows"]) == (422, "missing_field", 2)


class Service:
    """What stands behind HTTP, in this process: one version, fused."""

    def __init__(self, settings: Settings, components: Components) -> None:
        self.settings = settings
        self.admission = Admission(settings.limits.max_held_bytes)
        self.serving = Pipeline(settings, components, None)

    def choose(self) -> Pipeline:
        return self.serving

    async def predict(
        self, body: bytes | bytearray, *, report_bad_rows: bool, explain: bool, pipeline: Pipeline
    ) -> list[bytes]:
        return await pipeline.encode(await pipeline.score(body, report_bad_rows=report_bad_rows), explain=explain)

    async def describe_rollout(self) -> dict[str, Any]:
        return {}

    async def drift(self) -> None:
        return None

    async def is_ready(self) -> bool:
        return True


class HangingService(Service):
    """One whose scoring does not end."""

    async def predict(
        self, body: bytes | bytearray, *, report_bad_rows: bool, explain: bool, pipeline: Pipeline
    ) -> list[bytes]:
        await asyncio.Event().wait()
        return await super().predict(body, report_bad_rows=report_bad_rows, explain=explain, pipeline=pipeline)


class Answer(NamedTuple):
    status: int
    headers: dict[bytes, bytes]
    body: bytes


def ask(service: Service, method: str, path: str, body: bytes = b"", key: str | None = None) -> Answer:
    """What the application of a service answers."""
    said: list[Any] = []

    async def receive() -> dict[str, Any]:
        return part(body, more=False)

    async def send(message: Any) -> None:
        said.append(message)

    headers = [] if key is None else [(b"authorization", b"Bearer " + key.encode())]
    scope = {"type": "http", "method": method, "path": path, "headers": headers, "query_string": b"", "root_path": ""}

    async def answer() -> None:
        await build_http_app(service, service.admission)(scope, receive, send)

    asyncio.run(answer())
    return Answer(said[0]["status"], dict(said[0]["headers"]), b"".join(message["body"] for message in said[1:]))


def test_scoring_that_hangs_is_given_up_and_its_bytes_are_given_back(components: Components, example: dict[str, Any]) -> None:
    service = HangingService(Settings(limits=Limits(score_timeout_s=0.05)), components)
    answer = ask(service, "POST", "/predict", json.dumps([example]).encode())
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (503, "unavailable")
    assert answer.headers[b"retry-after"] == b"1"
    assert service.admission.held_bytes == 0


@pytest.mark.parametrize(("scope", "statuses"), [("predict", [200, 403, 403]), ("model", [403, 200, 404])])
def test_a_key_for_asking_does_not_show_what_others_asked(
    components: Components, example: dict[str, Any], tmp_path: Path, scope: Scope, statuses: list[int]
) -> None:
    # 404: the published model has no training rows to compare with.
    service = Service(Settings(access=AccessSettings(keys_file=str(tmp_path / "keys.json"))), components)
    key = make_key(tmp_path / "keys.json", "narrow", [scope])
    body = json.dumps([example]).encode()
    asked = [("POST", "/predict", body), ("GET", "/model", b""), ("GET", "/drift", b"")]
    assert [ask(service, *one, key).status for one in asked] == statuses
    assert {ask(service, *one).status for one in asked} == {401}
