"""Scoring as a notebook does it: a DataFrame through the fitted scikit-learn objects, and dummies for the categories.

Unlike in many notebooks, the dummies have the levels of the manifest, not those that happen to be in the rows.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from benchmarks.rivals.artefacts import Artefacts

__all__ = ["encode", "plain_numbers", "score"]


def encode(artefacts: Artefacts, table: pd.DataFrame) -> pd.DataFrame:
    """The model's features of raw rows."""
    table = table.copy(deep=False)
    schema = artefacts.manifest["schema"]["columns"]
    for column in schema:
        if column["kind"] in {"money", "percent"}:
            table[column["name"]] = plain_numbers(table[column["name"]])
    numeric = [column["name"] for column in schema if column["kind"] != "categorical"]
    imputed = pd.DataFrame(artefacts.imputer.transform(table[numeric].astype(float)), columns=numeric)
    standardised = pd.DataFrame(artefacts.scaler.transform(imputed), columns=numeric)
    dummies = [_dummies(column["name"], column["levels"], table) for column in schema if column["kind"] == "categorical"]
    features = pd.concat([standardised, *dummies], axis=1)
    return features[list(artefacts.model.feature_names_in_)]


def score(artefacts: Artefacts, features: pd.DataFrame) -> list[float]:
    """The probability of the positive class of each row."""
    probabilities: list[float] = artefacts.model.predict_proba(features)[:, 1].tolist()
    return probabilities


def plain_numbers(column: pd.Series[Any]) -> pd.Series[float]:
    """``"($5,032.58)"``, ``"$-5,032.58"`` and ``"36.29%"`` as numbers."""
    text = column.astype("str").str.replace(r"[$,%)]", "", regex=True).str.replace("(", "-")
    return pd.to_numeric(text, errors="coerce")


def _dummies(name: str, levels: list[str], table: pd.DataFrame) -> pd.DataFrame:
    """A column per level of the manifest; none is set for an unknown or missing level."""
    known = table[name].where(table[name].isin(levels))
    return pd.get_dummies(pd.Categorical(known, levels), dtype=float).add_prefix(f"{name}_")
