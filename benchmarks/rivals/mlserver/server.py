"""MLServer with adaptive batching: runtimes that score merged V2 requests, a tensor per column.

mlserver start benchmarks/rivals/mlserver/scikit (or …/arrays), where model-settings.json names the runtime
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from benchmarks.rivals.arrays import CompiledModel
from benchmarks.rivals.artefacts import answers, load_artefacts
from benchmarks.rivals.tables import encode, score

_COMPONENTS = Path("model_components")


class Scikit(MLModel):
    """As its documentation has it: a DataFrame through the fitted scikit-learn objects, once per batch."""

    async def load(self) -> bool:
        """Called once, before the first request."""
        self._artefacts = load_artefacts(_COMPONENTS)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Probabilities of the rows of all requests of a batch."""
        probabilities = score(self._artefacts, encode(self._artefacts, pd.DataFrame(_cells(payload))))
        return _response(self.name, answers(self._artefacts.manifest, probabilities))


class Arrays(MLModel):
    """The same with arrays compiled at start: what is left is MLServer's own work."""

    async def load(self) -> bool:
        """Called once, before the first request."""
        self._model = CompiledModel(_COMPONENTS)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Probabilities of the rows of all requests of a batch."""
        cells = _cells(payload)
        numbers = [cells[name] for name in self._model.numeric]
        categories = [cells[name] for name in self._model.categorical]
        return _response(self.name, self._model.answers(self._model.score(numbers, categories)))


def _cells(payload: InferenceRequest) -> Mapping[str, list[Any]]:
    return {tensor.name: list(tensor.data) for tensor in payload.inputs}


def _response(model: str, rows: Sequence[Mapping[str, Any]]) -> InferenceResponse:
    tensors = (("probability_positiveclass", "FP64"), ("probability_predictedclass", "FP64"), ("predicted_class", "INT64"))
    outputs = [
        ResponseOutput(name=name, shape=[len(rows), 1], datatype=datatype, data=[row[name] for row in rows])
        for name, datatype in tensors
    ]
    return InferenceResponse(model_name=model, outputs=outputs)
