"""Scoring as a notebook does it: a DataFrame through the fitted scikit-learn objects, and dummies for the categories.

The one thing that a notebook gets wrong is put right here: the dummies have the levels of the manifest, not those that
happen to be among the rows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import joblib
import pandas as pd

__all__ = ["Artefacts", "answers", "encode", "load_artefacts", "plain_numbers", "score"]

Rows = list[dict[str, Any]]


class Artefacts:
    """What a training run left behind."""

    def __init__(self, manifest: dict[str, Any], imputer: Any, scaler: Any, model: Any) -> None:
        self.manifest = manifest
        self.imputer = imputer
        self.scaler = scaler
        self.model = model


def load_artefacts(folder: Path) -> Artefacts:
    """The three pickled estimators and their manifest."""
    imputer, scaler, model = (joblib.load(folder / f"{part}.pkl") for part in ("imputer", "scaler", "model"))
    return Artefacts(json.loads((folder / "manifest.json").read_text()), imputer, scaler, model)


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


def answers(manifest: dict[str, Any], probabilities: list[float]) -> Rows:
    """The service's answer to each row."""
    negative, positive = manifest["classes"]
    return [
        {
            "probability_positiveclass": probability,
            "probability_predictedclass": probability if probability >= manifest["threshold"] else 1.0 - probability,
            "selected_features": manifest["selected_features"],
            "predicted_class": positive if probability >= manifest["threshold"] else negative,
        }
        for probability in probabilities
    ]


def plain_numbers(column: pd.Series[Any]) -> pd.Series[float]:
    """``"($5,032.58)"``, ``"$-5,032.58"`` and ``"36.29%"`` as numbers."""
    text = column.astype("str").str.replace(r"[$,%)]", "", regex=True).str.replace("(", "-")
    return pd.to_numeric(text, errors="coerce")


def _dummies(name: str, levels: list[str], table: pd.DataFrame) -> pd.DataFrame:
    """A column per level, whichever of them are among the rows; none of them set where the level is unknown or missing."""
    known = table[name].where(table[name].isin(levels))
    return pd.get_dummies(pd.Categorical(known, levels), dtype=float).add_prefix(f"{name}_")
