from __future__ import annotations

from pathlib import Path

from support.own_tables import mixed_table, write_csv
from support.pages import Page

from serve_app.components.saving import save_components
from serve_app.offline.count_files import count_files
from serve_app.scoring.drift import compare
from serve_app.training.drift_report import write_drift_report
from serve_app.training.train import train


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
