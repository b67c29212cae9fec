"""Replicas follow a real load, up and down: many small calls (the script of docs/scaling.svg), and a few large ones."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from support.serving import Server, direct_replicas, run_command, serve, wait_for_direct_way, wait_until, write_config
from support.steady_load import Outcome

from serve_app.config import PROJECT_ROOT

pytestmark = pytest.mark.faults

CLIENTS = 8


def test_replicas_rise_above_the_minimum_under_load_and_return_to_it_and_no_call_is_lost_or_wrong(tmp_path: Path) -> None:
    chart = tmp_path / "scaling.svg"
    command = [sys.executable, "scripts/make_scaling.py", "--seconds", "90", "--chart", str(chart)]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Passed: waves: all [\d,]+ calls were answered as expected", done.stdout)
    assert "Preprocessor replicas: 1 before, at most 2, 1 at the end; 2 changes" in done.stdout
    assert re.search(r"Classifier replicas: 1 before, at most [12], 1 at the end; [02] changes", done.stdout), done.stdout
    assert "</svg>" in chart.read_text(encoding="utf-8")


def test_a_few_clients_with_large_calls_get_a_second_replica_and_lose_nothing(
    tmp_path: Path, make_rows: Any, report: Callable[[str, Outcome, str], None]
) -> None:
    def make_impatient(config: dict[str, Any]) -> None:
        for deployment in config["applications"][0]["deployments"]:
            deployment["autoscaling_config"]["downscale_delay_s"] = 5.0

    config, url = write_config(tmp_path, make_impatient)
    body = json.dumps(make_rows(100, 7) * 100).encode()
    with serve(run_command(config), url) as server:
        wait_for_direct_way(server)
        outcome, elapsed_s = call_until_two_replicas(server, body)
        wait_until(lambda: direct_replicas(server) == 1, "one replica, as before", 120)
    report(f"{CLIENTS} clients begin to send 10,000 rows a call", outcome, f"a second replica serves after {elapsed_s:.0f} s")
    assert outcome.answered == outcome.sent > CLIENTS, outcome


def call_until_two_replicas(server: Server, body: bytes) -> tuple[Outcome, float]:
    """What became of the calls, and how long the service took to have two preprocessors."""
    expected = server.predict(body)
    assert expected.status_code == requests.codes.ok
    outcome, is_over, lock = Outcome(), threading.Event(), threading.Lock()

    def call_on() -> None:
        while not is_over.is_set():
            try:
                kind = "answered" if server.predict(body).content == expected.content else "wrong"
            except requests.RequestException:
                kind = "failed"
            with lock:
                setattr(outcome, kind, getattr(outcome, kind) + 1)

    threads = [threading.Thread(target=call_on) for _ in range(CLIENTS)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: direct_replicas(server) == 2, "a second preprocessor", 60)
        elapsed_s = time.monotonic() - started
        time.sleep(5)  # with both
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    return outcome, elapsed_s
