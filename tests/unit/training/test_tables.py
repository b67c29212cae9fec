from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serve_app.errors import SettingsError, TableError
from serve_app.scoring.schema import Column
from serve_app.training.column_kinds import Correction, Inferred, infer_schema, read_corrections
from serve_app.training.tables import Table, read_column, read_table

ROWS: list[dict[str, Any]] = [
    {"n": 1, "x": 0.1, "is": True, "on": "2024-02-29", "t": "a"},
    {"n": -7, "x": None, "is": False, "on": "2024-03-01", "t": "süd, west"},
    {"n": 3, "x": 1e-300, "is": None, "on": None, "t": '"'},
]
CELLS = {
    "n": ["1", "-7", "3"],
    "x": ["0.1", "", "1e-300"],
    "is": ["true", "false", ""],
    "on": ["2024-02-29", "2024-03-01", ""],
    "t": ["a", "süd, west", '"'],
}


def infer(columns: dict[str, Sequence[str]], **options: Any) -> Inferred:
    rows = len(next(iter(columns.values())))
    return infer_schema(Table(Path("table.csv"), {**columns, "y": ["0", "1"] * (rows // 2)}), "y", range(rows), **options)


def cycle(*cells: str, rows: int = 60) -> list[str]:
    return [cells[row % len(cells)] for row in range(rows)]


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".ndjson", ".parquet", ".csv"])
def test_a_table_is_the_same_whatever_the_file_is(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    if suffix == ".parquet":
        typed = [{**row, "on": row["on"] and dt.date.fromisoformat(row["on"])} for row in ROWS]
        pq.write_table(pa.Table.from_pylist(typed), path)
    elif suffix == ".csv":
        lines = [",".join(CELLS), "1,0.1,true,2024-02-29,a", '-7,,false,2024-03-01,"süd, west"', '3,1e-300,,,""""']
        path.write_text("\n".join(lines), encoding="utf-8")
    elif suffix == ".json":
        path.write_text(json.dumps(ROWS), encoding="utf-8")
    else:
        path.write_text("\n".join(json.dumps(row) for row in ROWS), encoding="utf-8")
    table = read_table(path, min_rows=1)
    assert {name: list(cells) for name, cells in table.columns.items()} == CELLS


@pytest.mark.parametrize(
    ("suffix", "content", "said"),
    [
        (".json", b'{"a": 1}', "is not a JSON array of row objects"),
        (".jsonl", b'{"a": 1}\n[1]', "is not lines of JSON objects"),
        (".json", b'[{"a": [1]}]', "row 1, column 'a': it holds a list"),
        (".parquet", b"PAR1 or not", "is no Parquet file"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, suffix: str, content: bytes, said: str) -> None:
    path = tmp_path / f"table{suffix}"
    path.write_bytes(content)
    with pytest.raises(TableError, match=said):
        read_table(path, min_rows=1)


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
        (cycle("7"), "it holds nothing but '7'"),
        ([str(1000 + row) for row in range(60)], "it numbers the rows: an identifier"),
        ([f"name {row}" for row in range(60)], "its texts are all different: an identifier"),
        ([f"name {row // 2}" for row in range(240)], "it has 120 different texts: an identifier, or free text"),
        (["a"] * 58 + ["b", "b"], "fewer than two of its texts stand in 5 rows or more"),
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
    with pytest.raises(SettingsError, match=f"a column '{name}' is corrected"):
        infer({"x": cycle("1", "2")}, corrections={name: Correction("numeric")})


@pytest.mark.parametrize(("mistake", "what"), [("maybe", "date"), ("12.30", "date")])
def test_a_cell_that_is_no_date_among_dates_is_named(mistake: str, what: str) -> None:
    cells = [f"2024-01-{1 + row % 28:02}" for row in range(60)]
    cells[40] = mistake
    with pytest.raises(TableError, match=f"row 41, column 'x': '{mistake}' is not a {what}"):
        infer({"x": cells})


def test_cells_become_the_numbers_of_a_request() -> None:
    table = Table(Path("t"), {"b": ["yes", "F", ""], "d": ["1970-01-02", "1969-12-31T12:00", " "], "c": ["u", "?", "v"]})
    boolean, date, category = Column("b", "boolean"), Column("d", "date"), Column("c", "categorical", levels=("u", "v"))
    assert np.array_equal(read_column(table, boolean), [1, 0, math.nan], equal_nan=True)
    assert np.array_equal(read_column(table, date), [1, -0.5, math.nan], equal_nan=True)
    assert np.array_equal(read_column(table, category), [0, math.nan, 1], equal_nan=True)
