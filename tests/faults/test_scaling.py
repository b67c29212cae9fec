"""Replicas follow a real load, up and down again, by the script that draws docs/scaling.svg."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from serve_app.config import PROJECT_ROOT

pytestmark = pytest.mark.faults


def test_replicas_rise_above_the_minimum_under_load_and_return_to_it_and_no_call_is_lost_or_wrong(tmp_path: Path) -> None:
    chart = tmp_path / "scaling.svg"
    command = [sys.executable, "docs/make_scaling.py", "--seconds", "90", "--chart", str(chart)]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Passed: waves: all [\d,]+ calls were answered as expected", done.stdout)
    assert "Preprocessor replicas: 1 before, at most 2, 1 at the end" in done.stdout
    assert "</svg>" in chart.read_text(encoding="utf-8")
