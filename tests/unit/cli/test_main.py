"""What commands say, in this process; others are tests/e2e/test_cli.py's."""

from __future__ import annotations

import json
from pathlib import Path

import joblib
import pytest
from click.testing import CliRunner, Result
from sklearn.linear_model import LogisticRegression
from support.own_tables import bundled_table, mixed_table, write_csv

from serve_app.cli.main import main
from serve_app.cli.service import _announce_service
from serve_app.components.loading import load_components
from serve_app.operations.run import Service


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CliRunner:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return CliRunner()


def invoke(run: CliRunner, *arguments: str | Path) -> Result:
    return run.invoke(main, list(map(str, arguments)))


def test_training_shows_columns_figures_and_what_is_left_out(run: CliRunner, tmp_path: Path) -> None:
    table = mixed_table() | {"told": ["a" if cell == "yes" else "b" for cell in mixed_table()["bought"]]}
    write_csv(tmp_path / "table.csv", table)
    (tmp_path / "columns.yaml").write_text("customer: leave_out\nplace: {unknown: reject}\n")
    options = ["--target", "bought", "--method", "logit", "--columns", "columns.yaml", "--costs", "1", "4", "--folds", "2"]
    done = invoke(run, "train", "table.csv", *options, "--out", "model")
    assert done.exit_code == 0, done.output
    manifest = load_components(tmp_path / "model").manifest
    assert manifest.training["threshold"] == {"rule": "cost", "false_positive": 1.0, "false_negative": 4.0}
    assert manifest.schema.column("place").unknown == "reject"
    assert (tmp_path / "model-report.html").exists()
    for said in ("as you said", "it holds only 'web'", "2-fold", "±", "told alone gives an AUC of 1.0000", "AUC"):
        assert said in done.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--top-share", "0.1", "--costs", "1", "4"], "two rules; choose one"),
        (["--costs", "0", "4"], "both costs must be greater than 0"),
        (["--columns", "none.yaml"], "none.yaml cannot be used"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(run: CliRunner, tmp_path: Path, options: list[str], said: str) -> None:
    write_csv(tmp_path / "table.csv", mixed_table())
    done = invoke(run, "train", "table.csv", "--target", "bought", *options, "--out", "model")
    assert done.exit_code != 0
    assert said in done.output
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "command",
    [["train", "table.csv", "--target", "y"], ["import", "mine.pkl", "--sample", "t.csv", "--target", "y", "--trust"]],
)
def test_a_model_is_never_written_where_nobody_said(run: CliRunner, command: list[str]) -> None:
    done = invoke(run, *command)
    assert done.exit_code == 2
    assert "Missing option '--out'" in done.output


def test_a_pickle_is_read_only_on_trust(run: CliRunner, tmp_path: Path) -> None:
    table = bundled_table("wine")
    data = [list(map(float, cells)) for cells in zip(*(table[name] for name in table if name != "class"), strict=True)]
    joblib.dump(LogisticRegression(max_iter=10_000).fit(data, table["class"]), tmp_path / "mine.pkl")
    write_csv(tmp_path / "wine.csv", table)
    arguments = ["import", "mine.pkl", "--sample", "wine.csv", "--target", "class", "--out", "model"]
    refused = invoke(run, *arguments)
    assert refused.exit_code == 2
    assert "say --trust" in refused.output
    done = invoke(run, *arguments, "--trust")
    assert done.exit_code == 0, done.output
    assert "model: mine 1.0.0 is sound: 1 file matches its digest, 20 golden rows" in done.output


def test_drift_of_a_file_is_shown_the_most_drifted_column_first(run: CliRunner, tmp_path: Path) -> None:
    write_csv(tmp_path / "table.csv", mixed_table())
    assert invoke(run, "train", "table.csv", "--target", "bought", "--method", "logit", "--out", "model").exit_code == 0
    (tmp_path / "now.jsonl").write_text("\n".join(json.dumps({**row, "share": "3%"}) for row in rows()))
    done = invoke(run, "drift", "now.jsonl", "--components", "model")
    assert done.exit_code == 0, done.output
    lines = [line for line in done.output.splitlines() if "│" in line]
    assert "(score)" in lines[0]
    assert "share" in lines[1]
    assert "drifted" in lines[1]
    assert "300 rows" in done.output
    assert (tmp_path / "drift.html").exists()


def rows() -> list[dict[str, str]]:
    table = mixed_table(300, seed=4)
    return [dict(zip(table, cells, strict=True)) for cells in zip(*table.values(), strict=True)]


def test_warnings_come_first_and_then_where_the_service_is(capsys: pytest.CaptureFixture[str]) -> None:
    _announce_service(
        Service("https://127.0.0.1:1", "http://127.0.0.1:2", "127.0.0.1:3", ("a note",), ("WARNING: one", "WARNING: two"))
    )
    said = capsys.readouterr().out.splitlines()
    assert said[:4] == [
        "WARNING: one",
        "WARNING: two",
        "a note",
        "Serving on https://127.0.0.1:1 (documentation: https://127.0.0.1:1/docs)",
    ]
