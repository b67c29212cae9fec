"""The command line as users type it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from serve_app.components.loading import load_components
from serve_app.config import PROJECT_ROOT

pytestmark = pytest.mark.e2e


def serve_app(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serve_app", *map(str, arguments)]
    return subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_generate_train_and_check_lead_to_sound_components(tmp_path: Path) -> None:
    generated = serve_app("generate", "--out", tmp_path, "--train-rows", "3000", "--test-rows", "50")
    assert generated.returncode == 0, generated.stderr
    assert "% positive" in generated.stdout
    assert len(json.loads((tmp_path / "expected.json").read_bytes())["answers"]) == 50
    options = ("--target", "y", "--method", "two-stage", "--out", tmp_path / "model", "--name", "mine")
    trained = serve_app("train", tmp_path / "train.csv", *options)
    assert trained.returncode == 0, trained.stderr
    assert "AUC" in trained.stdout
    assert "mine 1.0.0 is sound" in trained.stdout
    checked = serve_app("check", tmp_path / "model")
    assert checked.returncode == 0
    assert "golden rows" in checked.stdout
    assert len(load_components(tmp_path / "model").manifest.features) == 25


def test_what_other_components_answer_can_be_expected_too(tmp_path: Path) -> None:
    made = serve_app("generate", "--out", tmp_path, "--train-rows", "3000", "--test-rows", "20")
    assert made.returncode == 0, made.stderr
    published = json.loads((tmp_path / "expected.json").read_bytes())
    options = ("--target", "y", "--method", "two-stage", "--out", tmp_path / "model", "--name", "mine")
    trained = serve_app("train", tmp_path / "train.csv", *options)
    assert trained.returncode == 0, trained.stderr
    done = serve_app("expect", tmp_path / "test.json", "--components", tmp_path / "model")
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/expected.json: the answers of mine 1.0.0 to {tmp_path}/test.json, 20 rows" in done.stdout
    expected = json.loads((tmp_path / "expected.json").read_bytes())
    assert expected["model"]["digest"] == load_components(tmp_path / "model").digest
    assert expected["rows_sha256"] == published["rows_sha256"]
    assert expected["answers"] != published["answers"]


def test_publish_reference_makes_sound_components_that_score_the_example(tmp_path: Path) -> None:
    assert serve_app("publish-reference", "--out", tmp_path / "model").returncode == 0
    example = load_components(tmp_path / "model").manifest.golden[0]
    assert example.probabilities[1] == pytest.approx(0.36208864382410294, abs=1e-14)


def test_unsound_components_are_one_line_and_exit_1(tmp_path: Path) -> None:
    assert serve_app("publish-reference", "--out", tmp_path / "model").returncode == 0
    (tmp_path / "model" / "model.pkl").write_bytes(b"other")
    invocations: list[list[str | Path]] = [["check", tmp_path / "model"], ["check", "--components", tmp_path / "model"]]
    for arguments in invocations:
        done = serve_app(*arguments)
        assert done.returncode == 1
        assert done.stderr.startswith("Error: ")
        assert "model.pkl: its SHA-256 is" in done.stderr
        assert done.stderr.count("\n") == 1


def test_run_refuses_settings_and_components_that_cannot_be_used(tmp_path: Path) -> None:
    config = PROJECT_ROOT / "config" / "serve_config.yaml"
    for old, new, status, said in (
        ("max_rows: 200000", "max_raws: 1", 2, "max_raws"),
        ("components: model_components", f"components: {tmp_path}", 1, "manifest.json"),
        ("port: 1313", "prot: 1313", 2, "port"),
        ("port: 1313", "port: 99999", 2, "http_options.port: Expected `int` <= 65535"),
        ("topology: split", "topology: fused", 2, "the fused topology has no Classifier"),
        ("target_ongoing_requests: 128", "target_ongoing: 128", 2, "target_ongoing: there is no such setting here"),
    ):
        text = config.read_text()
        assert old in text
        (tmp_path / "config.yaml").write_text(text.replace(old, new))
        done = serve_app("run", "--config", tmp_path / "config.yaml")
        assert done.returncode == status
        assert said in done.stderr
        assert done.stderr.count("\n") == 1


def test_the_unknown_category_policy_is_a_choice_of_the_makers(tmp_path: Path) -> None:
    assert serve_app("publish-reference", "--unknown-category", "reject", "--out", tmp_path / "model").returncode == 0
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    assert {column.get("unknown") for column in manifest["schema"]["columns"] if column["kind"] == "categorical"} == {"reject"}


def test_run_refuses_components_that_are_named_and_missing(tmp_path: Path) -> None:
    done = serve_app("run", "--components", tmp_path / "nowhere")
    assert done.returncode == 1
    assert "nowhere/manifest.json: cannot be read" in done.stderr


@pytest.mark.parametrize(
    "arguments", [["train", "nowhere.csv", "--target", "y"], ["check", "nowhere"], ["expect", "nowhere.json"]]
)
def test_a_missing_file_is_one_line_and_exit_1(arguments: list[str], tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "out")] if arguments[0] == "train" else []
    done = serve_app(*arguments, *out)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "nowhere" in done.stderr
