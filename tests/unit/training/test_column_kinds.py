from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from serve_app.errors import SettingsError, TableError
from serve_app.scoring.schema import Column
from serve_app.training.column_kinds import Correction, Inferred, infer_schema, read_corrections
from serve_app.training.tables import Table


def infer(columns: dict[str, Sequence[str]], **options: Any) -> Inferred:
    rows = len(next(iter(columns.values())))
    return infer_schema(Table(Path("table.csv"), {**columns, "y": ["0", "1"] * (rows // 2)}), "y", range(rows), **options)


def cycle(*cells: str, rows: int = 60) -> list[str]:
    return [cells[row % len(cells)] for row in range(rows)]


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["true", "False"], "boolean"),
        (["Yes", "no", ""], "boolean"),
        (["0", "1"], "numeric"),
        (["€1,234.50", "-2 €"], "money"),
        (["CHF 10", "(CHF 12.50)"], "money"),
        (["1%", "22.5%"], "percent"),
        (["2024-02-29", "2023-01-01T12:30:00+02:00"], "date"),
        (["2024-02-30", "2023-01-01"], "categorical"),
        (["yes", "maybe"], "categorical"),
    ],
)
def test_a_column_is_what_all_of_its_cells_are(cells: list[str], kind: str) -> None:
    (column,) = infer({"x": cycle(*cells)}).schema.columns
    assert column.kind == kind


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        (cycle(""), "it is empty"),
        (cycle("7"), "it holds only '7'"),
        ([str(1000 + row) for row in range(60)], "it numbers the rows: an identifier"),
        ([f"name {row}" for row in range(60)], "its values are all different: an identifier"),
        ([f"name {row // 2}" for row in range(240)], "it has 120 different values: an identifier, or free text"),
        (["a"] * 58 + ["b", "b"], "fewer than two of its values appear in 5 rows or more"),
    ],
)
def test_a_column_of_no_use_is_left_out_with_a_word_why(cells: list[str], why: str) -> None:
    found = infer({"x": cells, "z": cycle("1.5", "2", "3", rows=len(cells))})
    assert found.left_out == {"x": why}
    assert [column.name for column in found.schema.columns] == ["z"]


def test_different_numbers_that_do_not_number_the_rows_stay() -> None:
    found = infer({"x": [str(row * row) for row in range(60)]})
    assert [column.kind for column in found.schema.columns] == ["numeric"]


def test_a_rare_level_is_none_unless_unknown_ones_are_refused() -> None:
    cells = cycle("a", "b")[:57] + ["c"] * 3
    (column,) = infer({"x": cells}).schema.columns
    assert column.levels == ("a", "b")
    (strict,) = infer({"x": cells}, unknown="reject").schema.columns
    assert strict.levels == ("a", "b", "c")


def test_a_correction_goes_before_the_rules(tmp_path: Path) -> None:
    path = tmp_path / "columns.yaml"
    path.write_text("zip: categorical\nnumber: numeric\nnote: leave_out\nwhere: {missing: reject, unknown: reject}\n")
    found = infer(
        {
            "zip": cycle("10115", "20095"),
            "number": [str(row) for row in range(60)],
            "note": cycle("a", "b"),
            "where": cycle("up", "down"),
        },
        corrections=read_corrections(path),
    )
    assert found.schema.columns == (
        Column("zip", "categorical", levels=("10115", "20095")),
        Column("number", "numeric"),
        Column("where", "categorical", levels=("down", "up"), null="reject", unknown="reject"),
    )
    assert found.left_out == {"note": "as you said"}


@pytest.mark.parametrize("content", ["x: number", "x: {kinds: numeric}", "- x", "x: ["])
def test_a_correction_that_cannot_be_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "columns.yaml").write_text(content)
    with pytest.raises(SettingsError, match=r"columns\.yaml cannot be used"):
        read_corrections(tmp_path / "columns.yaml")


@pytest.mark.parametrize("name", ["z", "y"])
def test_so_is_one_of_a_column_that_is_not_there_or_the_target(name: str) -> None:
    with pytest.raises(SettingsError, match=f"the column '{name}' cannot be corrected"):
        infer({"x": cycle("1", "2")}, corrections={name: Correction("numeric")})


@pytest.mark.parametrize(("mistake", "what"), [("maybe", "date"), ("12.30", "date")])
def test_a_cell_that_is_no_date_among_dates_is_named(mistake: str, what: str) -> None:
    cells = [f"2024-01-{1 + row % 28:02}" for row in range(60)]
    cells[40] = mistake
    with pytest.raises(TableError, match=f"row 41, column 'x': '{mistake}' is not a {what}"):
        infer({"x": cells})


def test_a_column_that_cannot_be_read_is_named_and_can_be_left_out() -> None:
    table = Table(
        Path("t"), {"x": cycle("1", "2"), "y": cycle("0", "1")}, unreadable={"tags": "column 'tags': it holds a list"}
    )
    with pytest.raises(TableError, match="column 'tags': it holds a list; leave the column out by --columns"):
        infer_schema(table, "y", range(60))
    found = infer_schema(table, "y", range(60), corrections={"tags": Correction("leave_out")})
    assert found.left_out == {"tags": "as you said"}
    assert [column.name for column in found.schema.columns] == ["x"]
