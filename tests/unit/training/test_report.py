from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.own_tables import bundled_table, mixed_table, write_csv
from support.pages import Page

from serve_app.training.report import write_report
from serve_app.training.train import train


def test_the_report_of_two_classes_shows_all_and_fetches_nothing(tmp_path: Path) -> None:
    table = mixed_table() | {"told": ["1" if cell == "yes" else "0" for cell in mixed_table()["bought"]]}
    table["<b>odd $name</b>"] = table.pop("number")
    draft, found = train(write_csv(tmp_path / "table.csv", table), target="bought", method="logit", folds=3)
    assert write_report(tmp_path / "report.html", draft.manifest, found) == f"{tmp_path}/report.html: the report"
    page = Page(tmp_path / "report.html")
    assert page.headings == [
        "Figures",
        "Class balance",
        "ROC and precision-recall",
        "Calibration",
        "Lift and deciles",
        "Confusion matrix by threshold",
        "Coefficients",
        "Importances",
        "Columns",
    ]
    assert page.plots == 5
    assert page.fetched == []
    assert "told alone gives an AUC of 1.0000" in page.text
    assert "it numbers the rows: an identifier" in page.text
    assert "<b>odd $name</b>" in page.text
    assert f"{found.held_back.auc:.4f}" in page.text
    assert "0.5000 (chosen)" in page.text


def test_the_report_of_three_classes_has_their_confusion_matrix(tmp_path: Path) -> None:
    table = bundled_table("wine")
    draft, found = train(write_csv(tmp_path / "table.csv", table), target="class", method="trees", folds=2)
    write_report(tmp_path / "report.html", draft.manifest, found)
    page = Page(tmp_path / "report.html")
    assert "Confusion matrix" in page.headings
    assert "Coefficients" not in page.headings
    assert page.fetched == []


def test_without_matplotlib_one_is_told_that_there_is_no_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draft, found = train(write_csv(tmp_path / "table.csv", mixed_table()), target="bought")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "make install-data" in write_report(tmp_path / "report.html", draft.manifest, found)
    assert not (tmp_path / "report.html").exists()
