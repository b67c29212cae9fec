from __future__ import annotations

from pathlib import Path

import click
import pytest

from stress.errors import StressError
from stress.options import Common, common_options, run_command_line


@click.command()
@common_options
@click.option("--fail", is_flag=True)
def command(common: Common, fail: bool) -> None:
    if fail:
        raise StressError("it cannot go on")
    click.echo(f"{common.seed} {common.data.name} {common.folder('here')}")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["name", *arguments])
    monkeypatch.setattr("signal.signal", lambda *_: None)  # the handler of the tests' own process stays
    with pytest.raises(SystemExit) as ended:
        run_command_line(command, "name")
    return int(str(ended.value.code))


def test_a_command_receives_the_common_options(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--seed", "7", "--data", "my/rows", "--out", "report") == 0
    assert capsys.readouterr().out == "7 rows report\n"


def test_a_report_has_a_folder_of_its_own_by_default() -> None:
    assert Common(1, Path("data"), None).folder("capacity").name.startswith("capacity-")


def test_an_error_is_one_sentence_and_exit_code_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--fail") == 1
    assert capsys.readouterr().err == "Error: it cannot go on\n"
