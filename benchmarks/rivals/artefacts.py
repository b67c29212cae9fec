"""The files of model_components, and the service's answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import joblib

__all__ = ["Artefacts", "answers", "load_artefacts"]


class Artefacts(NamedTuple):
    """What a training run has written."""

    manifest: dict[str, Any]
    imputer: Any
    scaler: Any
    model: Any


def load_artefacts(folder: Path) -> Artefacts:
    """The manifest and the three pickled estimators."""
    manifest = json.loads((folder / "manifest.json").read_text())
    return Artefacts(manifest, *(joblib.load(folder / f"{part}.pkl") for part in ("imputer", "scaler", "model")))


def answers(manifest: dict[str, Any], probabilities: Sequence[float]) -> list[dict[str, Any]]:
    """The service's answer to each row."""
    negative, positive = manifest["classes"]
    threshold, selected_features = manifest["threshold"], manifest["selected_features"]
    return [
        {
            "probability_positiveclass": probability,
            "probability_predictedclass": probability if probability >= threshold else 1.0 - probability,
            "selected_features": selected_features,
            "predicted_class": positive if probability >= threshold else negative,
        }
        for probability in probabilities
    ]
