from __future__ import annotations

import os
from typing import Any

import pytest

from serve_app.offline.local_ray import ray_for_files


def test_a_ray_of_its_own_listens_on_loopback_is_not_held_back_and_reports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    wanted = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    started: dict[str, Any] = {}

    def init(**options: Any) -> None:
        started.update(options, environment={name: os.environ.get(name) for name in wanted})

    for name in wanted:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(ray, "init", init)
    with ray_for_files(None):
        pass
    assert (started["address"], started["environment"]) == ("local", wanted)
