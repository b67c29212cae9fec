"""The whole application, without a server; what a client sees of it is tests/integration/test_api.py's."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from support.http_app import Service, ask

from serve_app.api.key_file import Scope, make_key
from serve_app.components.compiled import Components
from serve_app.config import AccessSettings, Limits, Settings
from serve_app.serving.pipeline import Pipeline


class HangingService(Service):
    """One whose scoring does not end."""

    async def predict(
        self, body: bytes | bytearray, *, report_bad_rows: bool, explain: bool, pipeline: Pipeline
    ) -> list[bytes]:
        await asyncio.Event().wait()
        return await super().predict(body, report_bad_rows=report_bad_rows, explain=explain, pipeline=pipeline)


def test_scoring_that_hangs_is_given_up_and_its_bytes_are_given_back(components: Components, example: dict[str, Any]) -> None:
    service = HangingService(Settings(limits=Limits(score_timeout_s=0.05)), components)
    answer = ask(service, "POST", "/predict", json.dumps([example]).encode())
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (503, "unavailable")
    assert answer.headers[b"retry-after"] == b"1"
    assert service.budget.held_bytes == 0


@pytest.mark.parametrize(("scope", "statuses"), [("predict", [200, 403, 403]), ("model", [403, 200, 404])])
def test_a_key_for_asking_does_not_show_what_others_asked(
    components: Components, example: dict[str, Any], tmp_path: Path, scope: Scope, statuses: list[int]
) -> None:
    # 404: the published model has no training rows to compare with.
    service = Service(Settings(access=AccessSettings(keys_file=str(tmp_path / "keys.json"))), components)
    key = make_key(tmp_path / "keys.json", "narrow", [scope])
    body = json.dumps([example]).encode()
    asked = [("POST", "/predict", body), ("GET", "/model", b""), ("GET", "/drift", b"")]
    assert [ask(service, *one, key=key).status for one in asked] == statuses
    assert {ask(service, *one).status for one in asked} == {401}


def test_readiness_says_whether_another_version_answers_than_the_one_that_should(components: Components) -> None:
    service = Service(Settings(), components)
    ready = ask(service, "GET", "/ready")
    service.falls_back = True
    fallback = ask(service, "GET", "/ready")
    assert (ready.status, json.loads(ready.body)) == (200, {"status": "ready"})
    assert (fallback.status, json.loads(fallback.body)) == (200, {"status": "ready", "fallback": True})
