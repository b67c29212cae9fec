"""What a command sets before it imports Ray."""

from __future__ import annotations

import os

import pytest

from serve_app.operations.connection import prepare_to_connect


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    os.environ.pop("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", None)


def test_a_cluster_on_loopback_needs_ray_to_use_loopback() -> None:
    prepare_to_connect("10.0.0.1:6379")
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in os.environ
    prepare_to_connect("127.0.0.1:4242")
    assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert os.environ["RAY_AUTH_MODE"] == "token"


def test_nothing_goes_through_a_proxy() -> None:
    os.environ |= {"http_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "GRPC_PROXY": "http://127.0.0.1:9"}
    prepare_to_connect("127.0.0.1:4242")
    assert not {"http_proxy", "https_proxy", "all_proxy", "grpc_proxy"} & {name.lower() for name in os.environ}
