"""The run as a whole, without Ray; with it: tests/integration/test_offline.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.own_tables import mixed_table, write_csv

from serve_app.components.compiled import Components
from serve_app.errors import TableError
from serve_app.offline import score_files as offline


@pytest.mark.parametrize("name", ["row", "file", "probability_positiveclass", "predicted_class"])
def test_a_column_to_keep_that_is_called_like_one_of_the_answers_is_refused(
    tmp_path: Path, model_folder: Path, name: str
) -> None:
    source = write_csv(tmp_path / "rows.csv", mixed_table(5) | {name: ["x"] * 5})
    with pytest.raises(TableError, match=f"the column '{name}' cannot be kept"):
        offline.score_files(str(source), str(tmp_path / "out"), model_folder, keep=[name])
    assert not (tmp_path / "out").exists()


def test_a_column_to_keep_that_is_named_twice_is_kept_once(tmp_path: Path, mixed: Components) -> None:
    assert offline._kept_columns(mixed, ["place", "customer", "place"]) == ("place", "customer")
