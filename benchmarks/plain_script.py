"""Scores a CSV file as a plain script does, with pandas and a fitted Pipeline; ``files.py`` compares the service with it.

    python -m benchmarks.plain_script PIPELINE SOURCE OUT

PIPELINE is a joblib file of the fitted Pipeline and the kinds of the columns that it uses.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import joblib
import pandas as pd

__all__ = ["read_table"]


def read_table(path: Path, kinds: Mapping[str, str]) -> pd.DataFrame:
    """The columns in ``kinds``, with money and percent as numbers."""
    table = pd.read_csv(path, usecols=list(kinds))[list(kinds)]
    for name, kind in kinds.items():
        if kind == "money":
            is_negative = table[name].str.contains("[(-]", regex=True, na=False)
            amount = pd.to_numeric(table[name].str.replace("[$,()-]", "", regex=True))
            table[name] = amount.where(~is_negative, -amount)
        elif kind == "percent":
            table[name] = pd.to_numeric(table[name].str.removesuffix("%"))
    return table


if __name__ == "__main__":
    pipeline, kinds_ = joblib.load(sys.argv[1])
    probabilities = pipeline.predict_proba(read_table(Path(sys.argv[2]), kinds_))[:, 1:]
    pd.DataFrame(probabilities, columns=["probability_positiveclass"]).to_parquet(sys.argv[3])
