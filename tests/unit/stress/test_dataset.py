from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from serve_app.config import PROJECT_ROOT
from stress.dataset import Dataset, load_dataset, prepare_data
from stress.errors import StressError


@pytest.fixture
def folder(tmp_path: Path, dataset_folder: Path) -> Path:
    """A copy to change."""
    for name in ("test.json", "expected.json"):
        shutil.copy(dataset_folder / name, tmp_path / name)
    return tmp_path


def test_rows_are_sent_as_they_stand_in_the_file(dataset: Dataset) -> None:
    assert len(dataset.rows) == len(dataset.expected.answers) == 30
    assert [json.loads(row) for row in dataset.rows] == json.loads(dataset.content)
    assert all(row in dataset.content for row in dataset.rows)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("test.json", None, r"test\.json cannot be read"),
        ("expected.json", None, r"expected\.json cannot be read"),
        ("test.json", b"{", "no JSON array of rows"),
        ("test.json", b"[]", "holds no rows"),
        ("test.json", b"[{}]", r"expected\.json is of other rows than .*test\.json: run `python -m serve_app expect"),
        ("expected.json", b"{}", r"expected\.json cannot be used: .*remove it"),
    ],
)
def test_files_that_cannot_be_used_are_one_sentence(folder: Path, name: str, content: bytes | None, said: str) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(StressError, match=said):
        load_dataset(folder)


def test_files_that_fit_are_left_alone(folder: Path) -> None:
    told: list[str] = []
    prepare_data(folder, told.append)
    assert told == []


def test_rows_of_ones_own_are_scored_and_never_written_over(folder: Path) -> None:
    own = b"[" + load_dataset(folder).rows[7] + b"]"
    (folder / "test.json").write_bytes(own)
    told: list[str] = []
    prepare_data(folder, told.append)
    assert len(told) == 1
    assert (folder / "test.json").read_bytes() == own
    assert len(load_dataset(folder).expected.answers) == 1


def test_rows_that_cannot_be_scored_are_one_sentence(folder: Path) -> None:
    (folder / "test.json").write_bytes(b'[{"x53": 1}]')
    with pytest.raises(StressError, match=r"^`python -m serve_app expect` failed: 1 row cannot be scored[^\n]*$"):
        prepare_data(folder, lambda _: None)


def test_the_load_test_loads_nothing_of_the_service_and_nothing_of_locust_in_its_own_process() -> None:
    script = "import sys, stress.__main__; print(sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.replace("'", '"')))
    assert "stress" in loaded
    assert loaded.isdisjoint({"serve_app", "ray", "locust", "gevent", "matplotlib"})
