"""Tables of one's own for tests: three data sets that come with scikit-learn, and one of all kinds of columns."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import datasets

__all__ = ["bundled_table", "mixed_table", "rows_of", "write_csv"]


def bundled_table(name: str) -> dict[str, list[str]]:
    """``breast_cancer``, ``wine`` or ``digits`` as text, by column; the target is called ``class``."""
    bunch: Any = getattr(datasets, f"load_{name}")()
    names = [str(column).replace(" ", "_") for column in bunch.feature_names]
    table = {column: [repr(float(cell)) for cell in bunch.data[:, index]] for index, column in enumerate(names)}
    return table | {"class": [str(bunch.target_names[code]) for code in bunch.target]}


def mixed_table(rows: int = 600, seed: int = 8) -> dict[str, list[str]]:
    """Every kind of column, nulls in each, and two that should be left out; the target is called ``bought``."""
    random = np.random.default_rng(seed)
    number, paid, share = random.normal(size=rows), random.normal(0, 300, rows), random.uniform(0, 100, rows)
    member = random.random(rows) < 0.4
    day = random.integers(0, 900, rows)
    place = random.choice(["north", "south", "east"], rows, p=[0.5, 0.3, 0.2])
    log_odds = number + paid / 300 - share / 50 + 1.5 * member + (place == "south") + day / 450 - 2
    table: dict[str, list[str]] = {
        "customer": [str(5000 + row) for row in random.permutation(rows)],
        "number": [f"{cell:.4f}" for cell in number],
        "paid": [f"(€{-cell:,.2f})" if cell < 0 else f"€{cell:,.2f}" for cell in paid],
        "share": [f"{cell:.1f}%" for cell in share],
        "member": np.where(member, "yes", "no").tolist(),
        "since": [str(np.datetime64("2022-01-01") + cell) for cell in day],
        "place": place.tolist(),
        "source": ["web"] * rows,
        "bought": np.where(random.random(rows) < 1 / (1 + np.exp(-log_odds)), "yes", "no").tolist(),
    }
    for name in table.keys() - {"customer", "source", "bought"}:
        for row in random.choice(rows, rows // 25, replace=False):
            table[name][row] = ""
    return table


def rows_of(table: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """The rows as objects."""
    return [dict(zip(table, cells, strict=True)) for cells in zip(*table.values(), strict=True)]


def write_csv(path: Path, table: Mapping[str, Sequence[str]]) -> Path:
    """The table as a CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))
    return path
