"""FastAPI around one scikit-learn Pipeline, loaded at start; a DataFrame per request.

uvicorn --workers 2 benchmarks.rivals.fastapi_pipeline.server:app
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from fastapi import FastAPI
from sklearn.compose import ColumnTransformer
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

from benchmarks.rivals.artefacts import Artefacts, answers, load_artefacts
from benchmarks.rivals.tables import plain_numbers

_artefacts = load_artefacts(Path("model_components"))


def _read_numbers(table: pd.DataFrame, strings: list[str]) -> pd.DataFrame:
    """All columns as numbers, including money and percent, which are strings."""
    return table.assign(**{name: plain_numbers(table[name]) for name in strings}).astype(float)


def _build_pipeline(artefacts: Artefacts) -> Any:
    """The pickled estimators as one Pipeline. They are fitted already, except the one-hot encoder."""
    columns = artefacts.manifest["schema"]["columns"]
    numeric = [column["name"] for column in columns if column["kind"] != "categorical"]
    strings = [column["name"] for column in columns if column["kind"] in {"money", "percent"}]
    categorical = [column for column in columns if column["kind"] == "categorical"]
    encoder = OneHotEncoder(
        categories=[column["levels"] for column in categorical],
        drop="first",
        handle_unknown="ignore",
        sparse_output=False,
    )
    numbers = Pipeline(
        [
            ("read", FunctionTransformer(_read_numbers, kw_args={"strings": strings}, feature_names_out="one-to-one")),
            ("impute", FrozenEstimator(artefacts.imputer)),
            ("standardise", FrozenEstimator(artefacts.scaler)),
        ]
    )
    features = ColumnTransformer(
        [("numbers", numbers, numeric), ("levels", encoder, [column["name"] for column in categorical])],
        verbose_feature_names_out=False,
    )
    chosen = ColumnTransformer(
        [("chosen", "passthrough", list(artefacts.model.feature_names_in_))], verbose_feature_names_out=False
    )
    steps = [("features", features), ("select", chosen), ("model", FrozenEstimator(artefacts.model))]
    pipeline = Pipeline(steps).set_output(transform="pandas")
    baseline = pd.DataFrame([{column["name"]: column["levels"][0] if "levels" in column else np.nan for column in columns}])
    return pipeline.fit(baseline, [0])


_pipeline = _build_pipeline(_artefacts)
app = FastAPI()


@app.post("/predict")
def predict(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Probabilities of a JSON array of rows."""
    probabilities = _pipeline.predict_proba(pd.DataFrame(rows))[:, 1].tolist()
    return answers(_artefacts.manifest, probabilities)
