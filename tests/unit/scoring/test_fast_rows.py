from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support.parsing import COLUMNS, GOOD, parse

from serve_app.scoring.rows import RowParser
from serve_app.scoring.schema import Column

CELLS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=20),
    st.sampled_from(["x", "y", "5", "$5.00", "($1,234.50)", "1e3", ""]), st.lists(st.integers(), max_size=2),
)  # fmt: skip
ANY_ROW = st.dictionaries(st.sampled_from(["a b", "class", "m", "zzz", ""]), CELLS)


@given(st.lists(ANY_ROW, max_size=8))
def test_the_fast_and_the_thorough_path_agree(rows: list[dict[str, Any]]) -> None:
    together = parse(json.dumps(rows))
    alone = [parse(json.dumps([line])) for line in rows]
    assert together[0] == [values for result in alone for values in result[0]]
    assert [problem.field for problem in together[1]] == [problem.field for result in alone for problem in result[1]]
    assert [warning.field for warning in together[2]] == [warning.field for result in alone for warning in result[2]]


def test_values_are_a_c_ordered_float64_array() -> None:
    parser = RowParser(COLUMNS, max_magnitude=1e300, max_rows=10)
    chunk = next(parser.chunks(json.dumps([GOOD, GOOD]).encode()))
    assert chunk.values.dtype == np.float64
    assert chunk.values.flags.c_contiguous


def test_columns_whose_names_json_escapes_are_read_like_others() -> None:
    columns = (Column('say "a"\\b\n', "numeric"), Column("c", "categorical", levels=("x",)))
    rows = [{columns[0].name: 1.5, "c": "x"}, {columns[0].name: "bad", "c": "x"}]
    values, problems, _, _ = parse(json.dumps(rows), columns=columns)
    assert values == [[1.5, 0.0]]
    assert [(problem.row, problem.field) for problem in problems] == [(1, columns[0].name)]
    (chunk,) = RowParser(columns, max_magnitude=1e300, max_rows=10).chunks(b"[]")
    assert chunk.values.shape == (0, 2)
