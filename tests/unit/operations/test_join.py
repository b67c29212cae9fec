"""A worker before it joins."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path

import pytest

from serve_app.errors import StartError
from serve_app.operations import join


def test_a_worker_waits_for_a_head_that_answers_and_for_its_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as head:
        monkeypatch.setattr(join, "CLUSTER_PORT", head.getsockname()[1])
        monkeypatch.setattr(join, "_HEAD_TIMEOUT_S", 0.3)
        token = tmp_path / "auth_token"
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        with pytest.raises(StartError, match="did not answer"):
            join._wait_for_head("127.0.0.1")
        token.write_text("secret")
        assert join._wait_for_head("127.0.0.1") == "127.0.0.1"
    with pytest.raises(StartError, match=r"127\.0\.0\.1:\d+ within 0\.3 s"):
        join._wait_for_head("127.0.0.1")
