"""What commands say, in this process; others are tests/e2e/test_cli.py's."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import Mock

import joblib
import pytest
from click.testing import CliRunner, Result
from sklearn.linear_model import LogisticRegression
from support.own_tables import bundled_table, mixed_table, write_csv

from serve_app.cli.main import main
from serve_app.cli.printing import announce_service
from serve_app.components.loading import load_components
from serve_app.errors import PortInUseError, SettingsError
from serve_app.operations import ready
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
    assert "add --trust" in refused.output
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


@pytest.mark.parametrize(
    "arguments",
    [
        ["keys", "make", "x", "--requests-per-s", "inf"],
        ["keys", "make", "x", "--requests-per-s", "nan"],
        ["keys", "make", "x", "--expires-in-days", "1e9"],
        ["deploy", "model", "--canary", "nan"],
        ["deploy", "model", "--shadow", "nan"],
        ["run", "--drain-timeout", "inf"],
        ["ready", "--timeout", "inf"],
        ["train", "t.csv", "--target", "y", "--out", "o", "--threshold", "nan"],
        ["train", "t.csv", "--target", "y", "--out", "o", "--costs", "1", "inf"],
    ],
)
def test_a_number_that_is_none_is_a_mistake_in_the_options(run: CliRunner, arguments: list[str]) -> None:
    done = invoke(run, *arguments)
    assert done.exit_code == 2
    assert "Invalid value for '--" in done.output
    assert "not a finite number" in done.output or "not in the range" in done.output


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (SettingsError("no such setting"), 2, "Error: no such setting\n"),
        (PortInUseError("127.0.0.1", 1313), 1, "Error: port 1313 on 127.0.0.1 is already in use"),
        (FileNotFoundError(2, "No such file", "nowhere"), 1, "Error: nowhere: No such file\n"),
        (ConnectionResetError(104, "Connection reset"), 1, "Error: Connection reset\n"),
        (OSError("a reason of its own"), 1, "Error: a reason of its own\n"),
        (TimeoutError(), 1, "Error: TimeoutError\n"),
    ],
)
def test_an_error_is_one_line_and_its_kind_the_exit_code(
    run: CliRunner, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, said: str
) -> None:
    monkeypatch.setattr(ready, "read_serve_config", Mock(side_effect=error))
    done = invoke(run, "ready")
    assert done.exit_code == code
    assert done.output.startswith(said)
    assert done.output.count("\n") == 1


def rows() -> list[dict[str, str]]:
    table = mixed_table(300, seed=4)
    return [dict(zip(table, cells, strict=True)) for cells in zip(*table.values(), strict=True)]


def test_warnings_come_first_and_then_where_the_service_is(capsys: pytest.CaptureFixture[str]) -> None:
    announce_service(
        Service("https://127.0.0.1:1", "http://127.0.0.1:2", "127.0.0.1:3", ("a note",), ("WARNING: one", "WARNING: two"))
    )
    said = capsys.readouterr().out.splitlines()
    assert said[:4] == [
        "WARNING: one",
        "WARNING: two",
        "a note",
        "Serving on https://127.0.0.1:1 (documentation: https://127.0.0.1:1/docs)",
    ]
