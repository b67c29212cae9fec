"""How a failed start of Ray is reported."""

from __future__ import annotations

import pytest

from serve_app.errors import StartError
from serve_app.operations import ray_processes
from serve_app.operations.ray_processes import _last_line, ray_start


def test_the_reason_that_ray_gives_is_one_line() -> None:
    with pytest.raises(StartError, match="no-such-option") as refused:
        ray_start("--no-such-option")
    assert "\n" not in str(refused.value)


def test_of_a_crash_the_message_is_reported_and_not_the_stack() -> None:
    message = "store.cc:7: Check failed: no store"
    crash = (
        f"starting\n{message}\n*** StackTrace Information ***\npython() [0x5133b3]\n/lib/libc.so.6(+0x2724a) [0x7f22a2e9a24a]\n"
    )
    assert _last_line(crash) == message
    assert _last_line(" \n") == "it gave no reason"


def test_a_start_of_ray_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_processes, "_START_TIMEOUT_S", 0.1)
    with pytest.raises(StartError, match=r"within 0\.1 s"):
        ray_start("--help")
