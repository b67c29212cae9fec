from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.plain_script import read_table


def test_the_script_reads_the_columns_in_its_order_with_money_and_percent_as_numbers(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('p,unused,m,c,n\n36.29%,x,"$5,547.78",a,1.5\n,x,"($5,032.58)",,\n-1%,x,$-7.00,b,2\n')
    table = read_table(path, {"n": "numeric", "m": "money", "p": "percent", "c": "categorical"})
    assert list(table) == ["n", "m", "p", "c"]
    assert np.array_equal(table["n"], [1.5, np.nan, 2.0], equal_nan=True)
    assert table["m"].tolist() == [5547.78, -5032.58, -7.0]
    assert np.array_equal(table["p"], [36.29, np.nan, -1.0], equal_nan=True)
