from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.own_tables import mixed_table, write_csv

from serve_app.components.saving import save_components
from serve_app.training.column_kinds import Correction
from serve_app.training.nulls import NULL_TOKENS, blank_nulls
from serve_app.training.tables import Table
from serve_app.training.train import train


def with_token(token: str) -> dict[str, list[str]]:
    """A table whose missing values are all written as the token."""
    return {name: [cell or token for cell in cells] for name, cells in mixed_table().items()}


def test_only_the_columns_own_tokens_are_blanked() -> None:
    table = Table(Path("t"), {"a": ["NA", " ? ", "x"], "b": ["NA", "?", "x"]})
    found = blank_nulls(table, {"a": ("NA", "?")}).columns
    assert {name: list(cells) for name, cells in found.items()} == {"a": ["", "", "x"], "b": ["NA", "?", "x"]}


@pytest.mark.parametrize("token", [*NULL_TOKENS, "missing"])
def test_a_token_is_a_missing_value_in_training_and_in_requests(tmp_path: Path, token: str) -> None:
    options = {"target": "bought", "method": "logit", "null_tokens": ["missing"]}
    draft, report = train(write_csv(tmp_path / "table.csv", with_token(token)), **options)  # type: ignore[arg-type]
    plain_draft, plain = train(write_csv(tmp_path / "table.csv", mixed_table()), **options)  # type: ignore[arg-type]
    assert report == plain
    assert draft.manifest.schema == plain_draft.manifest.schema
    components = save_components(tmp_path / "components", draft)
    names = components.manifest.selected_features
    rows = [dict.fromkeys(names, token), dict.fromkeys(names, f" {token} "), dict.fromkeys(names)]
    (chunk,) = components.parser(max_rows=3).chunks(json.dumps(rows).encode())
    assert (list(chunk.problems), list(chunk.warnings)) == ([], [])
    assert np.isnan(chunk.values).all()


def test_a_columns_own_tokens_take_precedence(tmp_path: Path) -> None:
    table = mixed_table()
    table["place"] = ["NA" if cell == "north" else cell for cell in table["place"]]
    corrections = {"place": Correction(null_tokens=("east",))}
    draft, _ = train(write_csv(tmp_path / "table.csv", table), target="bought", method="logit", corrections=corrections)
    column = draft.manifest.schema.column("place")
    assert (column.levels, column.null_tokens) == (("NA", "south"), ("east",))


@pytest.mark.parametrize("token", ["", " ", "NA", "?"])
def test_rows_without_a_target_are_left_out_and_counted(tmp_path: Path, token: str) -> None:
    table = mixed_table()
    _, plain = train(write_csv(tmp_path / "table.csv", table), target="bought", method="logit")
    longer = {name: [*cells, *cells[:40]] for name, cells in table.items()}
    longer["bought"][-40:] = [token] * 40
    _, report = train(write_csv(tmp_path / "table.csv", longer), target="bought", method="logit")
    assert (report.rows_without_target, plain.rows_without_target) == (40, 0)
    assert report.rows == plain.rows == 600
    assert report.held_back == plain.held_back


def test_a_class_called_none_is_a_class(tmp_path: Path) -> None:
    table = mixed_table()
    table["bought"] = ["None" if cell == "no" else cell for cell in table["bought"]]
    draft, _ = train(write_csv(tmp_path / "table.csv", table), target="bought", method="logit")
    assert draft.manifest.classes == ("None", "yes")
