"""The commands of the README's section on own data, as they stand there, in an empty folder."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.serving import serve, write_config

from serve_app.config import PROJECT_ROOT

pytestmark = pytest.mark.e2e

README = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README[README.index("## Your own data") : README.index("## The stand-in data")]
FIRST, ASKING, FILES = (block.splitlines() for block in re.findall(r"^```sh\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL))
ACTIVATE = f". {PROJECT_ROOT}/.venv/bin/activate"


def bash(command: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-c", f"{ACTIVATE}; {command}"], cwd=folder, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first block has been run, up to the command that serves."""
    folder = tmp_path_factory.mktemp("own")
    assert FIRST[0] == "make install-data"
    assert FIRST[1] == ". .venv/bin/activate"
    assert FIRST[-1].startswith("python -m serve_app run ")
    for command in FIRST[2:-1]:
        bash(command, folder)
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    config, url = write_config(folder)
    command = f"{ACTIVATE}; exec {FIRST[-1]} --config {config}".replace("--components ", f"--components {folder}/")
    with serve(["bash", "-c", command], url) as server:
        yield server.url


def test_training_leaves_a_model_and_a_report(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} >= {"cancer.csv", "cancer_model", "cancer_model-report.html"}


def test_what_is_asked_of_the_service_is_answered(folder: Path, url: str) -> None:
    said = [bash(command.replace("http://127.0.0.1:1313", url), folder) for command in ASKING]
    rows, plain, explained, drift = said[0], *(json.loads(one) for one in said[1:])
    assert rows == ""
    assert plain[0].keys() == explained[0].keys() - {"explanation"}
    assert 0 <= plain[0]["probability_positiveclass"] <= 1
    assert len(explained[0]["explanation"]["reasons"]) == 5
    assert drift["model"] == "cancer"


def test_files_are_scored_and_compared(folder: Path) -> None:
    score, drift = (bash(command, folder) for command in FILES)
    assert "scored: 569 rows in = 569 scored + 0 refused" in score
    assert "569 rows" in drift
    assert (folder / "drift.html").stat().st_size > 10_000


def test_every_option_and_file_that_the_section_names_is_there() -> None:
    commands = {"train": bash("python -m serve_app train --help", PROJECT_ROOT)}
    commands |= {name: bash(f"python -m serve_app {name} --help", PROJECT_ROOT) for name in ("import", "score")}
    for option in ("--columns", "--method", "--top-share", "--costs", "--threshold"):
        assert option in SECTION
        assert option in commands["train"]
    for option in ("--sample", "--trust"):
        assert option in commands["import"]
    assert "--address" in commands["score"]
