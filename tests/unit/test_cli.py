"""What `run` says once the service answers."""

from __future__ import annotations

import pytest

from serve_app.cli import _announce_service
from serve_app.server import Service


def test_warnings_come_first_and_then_where_the_service_is(capsys: pytest.CaptureFixture[str]) -> None:
    _announce_service(Service("https://127.0.0.1:1", "http://127.0.0.1:2", "127.0.0.1:3", ("a note",), ("WARNING: one", "WARNING: two")))
    said = capsys.readouterr().out.splitlines()
    assert said[:4] == [
        "WARNING: one",
        "WARNING: two",
        "a note",
        "Serving on https://127.0.0.1:1 (documentation: https://127.0.0.1:1/docs)",
    ]
