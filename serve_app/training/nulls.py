"""Which cells of a table are missing values: empty ones, and the tokens that programs write instead.

Owns the list of tokens. Components hold the tokens of their columns, so that requests and files are read by the same list.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from serve_app.training.tables import Table

__all__ = ["NULL_TOKENS", "PANDAS_NULL_TOKENS", "TARGET_NULL_TOKENS", "blank_nulls"]

PANDAS_NULL_TOKENS = ("NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null", "None")
"""Those of NULL_TOKENS that pandas reads as missing values, too."""
NULL_TOKENS = (*PANDAS_NULL_TOKENS, "?", "-")
"""What counts as a missing value, blanks around it ignored, in any column but the target."""
TARGET_NULL_TOKENS = tuple(token for token in NULL_TOKENS if token not in {"None", "-"})
"""The same for the target, where ``None`` and ``-`` are more likely to be classes."""


def blank_nulls(table: Table, tokens: Mapping[str, Collection[str]]) -> Table:
    """The table with an empty string for each missing value; ``tokens`` by column."""
    return replace(table, columns={name: _blank(cells, tokens.get(name, ())) for name, cells in table.columns.items()})


def _blank(cells: Sequence[str], tokens: Collection[str]) -> Sequence[str]:
    missing = {cell for cell in set(cells) if cell.strip() in tokens}
    return ["" if cell in missing else cell for cell in cells] if missing else cells
