from __future__ import annotations

import datetime as dt
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serve_app.errors import TableError
from serve_app.scoring.schema import Column
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
        (".parquet", b"PAR1 or not", "is not a Parquet file"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, suffix: str, content: bytes, said: str) -> None:
    path = tmp_path / f"table{suffix}"
    path.write_bytes(content)
    with pytest.raises(TableError, match=said):
        read_table(path, min_rows=1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "too few rows to train on: 0"),
        (b"x,y\n", "too few rows to train on: 0"),
        (b"x,y\n" + b"1,2\n" * 30 + b"3\n", "row 32 has 1 cells, the header has 2"),
        (b"x,y\n" + b"1,2,3\n" * 30, "row 2 has 3 cells"),
        (b"x,x\n" + b"1,2\n" * 30, "the column 'x' appears twice"),
        (b"x,y\n" + b'"1"2,2\n' * 30, "is not a CSV file"),
        (b"x,y\n" + b"\xff,2\n" * 30, "is not a CSV file in UTF-8"),
    ],
)
def test_a_csv_file_that_is_no_table_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(TableError, match=message):
        read_table(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"none\.csv cannot be read: No such file"):
        read_table(tmp_path / "none.csv")


def test_a_file_with_a_byte_order_mark_and_empty_lines_is_read(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(b"\xef\xbb\xbf" + b"x,y\r\n" + b"1,2\r\n" * 20 + b"\r\n\r\n")
    assert {name: len(cells) for name, cells in read_table(path).columns.items()} == {"x": 20, "y": 20}


def test_cells_become_the_numbers_of_a_request() -> None:
    table = Table(Path("t"), {"b": ["yes", "F", ""], "d": ["1970-01-02", "1969-12-31T12:00", " "], "c": ["u", "?", "v"]})
    boolean, date, category = Column("b", "boolean"), Column("d", "date"), Column("c", "categorical", levels=("u", "v"))
    assert np.array_equal(read_column(table, boolean), [1, 0, math.nan], equal_nan=True)
    assert np.array_equal(read_column(table, date), [1, -0.5, math.nan], equal_nan=True)
    assert np.array_equal(read_column(table, category), [0, math.nan, 1], equal_nan=True)
