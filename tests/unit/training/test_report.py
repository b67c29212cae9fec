from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from support.own_tables import bundled_table, mixed_table, write_csv

from serve_app.components.saving import save_components
from serve_app.offline.score_files import count_files
from serve_app.scoring.drift import compare
from serve_app.training.report import importances, write_drift_report, write_report
from serve_app.training.train import train


class Page(HTMLParser):
    """What a page shows, and what it would fetch."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.fetched: list[str] = []
        self.text = ""
        self.plots = 0
        self._tag = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        self.plots += tag == "svg"
        self.fetched += [
            str(value) for name, value in attrs if name in {"src", "href", "xlink:href"} and value and value[0] != "#"
        ]

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._tag == "h2" and data.strip():
            self.headings.append(data)


def test_the_report_of_two_classes_shows_all_and_fetches_nothing(tmp_path: Path) -> None:
    table = mixed_table() | {"told": ["1" if cell == "yes" else "0" for cell in mixed_table()["bought"]]}
    table["<b>odd $name</b>"] = table.pop("number")
    draft, found = train(write_csv(tmp_path / "table.csv", table), target="bought", folds=3)
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
    assert f"{found.validation_auc:.4f}" in page.text
    assert "0.5000 (chosen)" in page.text


def test_the_report_of_three_classes_has_their_confusion_matrix(tmp_path: Path) -> None:
    table = bundled_table("wine")
    draft, found = train(write_csv(tmp_path / "table.csv", table), target="class", method="trees", folds=2)
    write_report(tmp_path / "report.html", draft.manifest, found)
    page = Page(tmp_path / "report.html")
    assert "Confusion matrix" in page.headings
    assert "Coefficients" not in page.headings
    assert page.fetched == []


def test_the_most_important_column_is_the_one_that_tells_most(tmp_path: Path) -> None:
    table = mixed_table(1500)
    random = np.random.default_rng(0)
    table["bought"] = ["yes" if float(cell or 0) + random.normal(0, 0.2) > 0 else "no" for cell in table["number"]]
    _, found = train(write_csv(tmp_path / "table.csv", table), target="bought", method="logit")
    lost = importances(found.evidence)
    assert next(iter(lost)) == "number"
    assert lost["number"] > 0.3
    assert abs(lost["place"]) < 0.05


def test_without_matplotlib_one_is_told_that_there_is_no_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draft, found = train(write_csv(tmp_path / "table.csv", mixed_table()), target="bought")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "make install-data" in write_report(tmp_path / "report.html", draft.manifest, found)
    assert not (tmp_path / "report.html").exists()


def test_the_page_of_drift_shows_the_most_drifted_column_first(tmp_path: Path) -> None:
    draft, _ = train(write_csv(tmp_path / "table.csv", mixed_table(1500)), target="bought", method="logit")
    components = save_components(tmp_path / "components", draft)
    table = mixed_table(1500, seed=9)
    table["share"] = ["99%"] * 1500
    table["paid"][0] = "much"
    counts, refused = count_files(str(write_csv(tmp_path / "now.csv", table)), components)
    assert (counts.rows, refused) == (1499, 1)
    distribution = components.manifest.distribution
    assert distribution
    found = compare(distribution, counts)
    assert found.columns["share"].verdict == "drifted"
    assert found.columns["place"].verdict == "stable"
    write_drift_report(tmp_path / "drift.html", components.manifest, found)
    page = Page(tmp_path / "drift.html")
    assert page.headings[0].startswith("score: ")
    assert page.headings[1].startswith("share: ")
    assert page.plots == len(page.headings) == 1 + len(components.manifest.selected_features)
    assert page.fetched == []
