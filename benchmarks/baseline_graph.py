"""Our own graph in the straightforward form: what Ray Serve's documentation leads to, with Ray Serve's defaults.

FastAPI ingress → preprocessor → model, one call of each per request, DataFrames between them. It gives the same
probabilities, and shows what the service's own design gains.
"""

# No `from __future__ import annotations` here: Ray Serve sends the ingress to its replica without the names that FastAPI
# needs to resolve annotations that are strings, and FastAPI would then look for the rows in the query.
from pathlib import Path
from typing import Any

import pandas as pd
from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from benchmarks.rivals.artefacts import answers, load_artefacts
from benchmarks.rivals.tables import encode, score

COMPONENTS = Path(__file__).resolve().parent.parent / "model_components"

api = FastAPI()


# The one setting that is not Ray Serve's default: three whole CPUs are more than a small machine has.
@serve.deployment(ray_actor_options={"num_cpus": 0.5})
class Preprocessor:
    """Rows to features."""

    def __init__(self) -> None:
        self._artefacts = load_artefacts(COMPONENTS)

    def encode(self, rows: list[dict[str, Any]]) -> pd.DataFrame:
        """The model's features of some rows."""
        return encode(self._artefacts, pd.DataFrame(rows))


@serve.deployment(ray_actor_options={"num_cpus": 0.5})
class Model:
    """Features to answers."""

    def __init__(self) -> None:
        self._artefacts = load_artefacts(COMPONENTS)

    def predict(self, features: pd.DataFrame) -> list[dict[str, Any]]:
        """The answer to each row."""
        return answers(self._artefacts.manifest, score(self._artefacts, features))


@serve.deployment(ray_actor_options={"num_cpus": 0.5})
@serve.ingress(api)
class Ingress:
    """HTTP."""

    def __init__(self, preprocessor: DeploymentHandle, model: DeploymentHandle) -> None:
        self._preprocessor = preprocessor
        self._model = model

    @api.post("/predict")
    async def predict(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Probabilities of a JSON array of rows."""
        features = self._preprocessor.encode.remote(rows)
        answer: list[dict[str, Any]] = await self._model.predict.remote(features)
        return answer


app = Ingress.bind(Preprocessor.bind(), Model.bind())  # type: ignore[attr-defined]  # the decorator makes a deployment
