"""The secret that Ray's processes share."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from serve_app.operations.ray_token import make_token


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, "HOME": str(tmp_path)})
    for name in ("RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN"):
        os.environ.pop(name, None)


def test_the_clusters_token_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    token = tmp_path / "auth_token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
    make_token()
    made = token.read_text()
    assert len(made) == 64
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    make_token()
    assert token.read_text() == made
    assert list(tmp_path.iterdir()) == [token]


def test_alone_the_token_is_made_where_ray_looks_for_it(tmp_path: Path) -> None:
    make_token()
    token = tmp_path / ".ray" / "auth_token"
    assert len(token.read_text()) == 64
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700


def test_a_token_of_the_environment_needs_no_file(tmp_path: Path) -> None:
    os.environ["RAY_AUTH_TOKEN"] = "secret"  # noqa: S105
    make_token()
    assert list(tmp_path.iterdir()) == []
