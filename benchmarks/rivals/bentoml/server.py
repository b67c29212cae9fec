"""BentoML with adaptive batching: concurrent requests arrive as one list of rows.

bentoml serve benchmarks.rivals.bentoml.server:Scikit (or :Arrays)
"""

from __future__ import annotations

from operator import itemgetter
from pathlib import Path
from typing import Any

import bentoml
import pandas as pd

from benchmarks.rivals.arrays import CompiledModel
from benchmarks.rivals.artefacts import answers, load_artefacts
from benchmarks.rivals.tables import encode, score

_COMPONENTS = Path("model_components")
_WORKERS = 2  # with two CPUs, one worker forms larger batches but was measured to be slower


@bentoml.service(traffic={"timeout": 60}, workers=_WORKERS)
class Scikit:
    """As its documentation has it: a DataFrame through the fitted scikit-learn objects, once per batch."""

    def __init__(self) -> None:
        self._artefacts = load_artefacts(_COMPONENTS)

    # The size of a batch is counted in rows; a request of more than max_batch_size rows is refused.
    @bentoml.api(route="/predict", batchable=True, max_batch_size=20_000, max_latency_ms=60_000)
    def predict(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Probabilities of the rows of all requests of a batch."""
        probabilities = score(self._artefacts, encode(self._artefacts, pd.DataFrame(rows)))
        return answers(self._artefacts.manifest, probabilities)


@bentoml.service(traffic={"timeout": 60}, workers=_WORKERS)
class Arrays:
    """The same with arrays compiled at start: what is left is BentoML's own work."""

    def __init__(self) -> None:
        self._model = CompiledModel(_COMPONENTS)
        self._numeric = [itemgetter(name) for name in self._model.numeric]
        self._categorical = [itemgetter(name) for name in self._model.categorical]

    @bentoml.api(route="/predict", batchable=True, max_batch_size=20_000, max_latency_ms=60_000)
    def predict(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Probabilities of the rows of all requests of a batch."""
        numbers = [list(map(cell, rows)) for cell in self._numeric]
        categories = [list(map(cell, rows)) for cell in self._categorical]
        return self._model.answers(self._model.score(numbers, categories))
