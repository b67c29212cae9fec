"""Where the model is asked: in this process, or in a Classifier replica by one remote call."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from serve_app.components.compiled import Components
from serve_app.errors import NotScorableError, ScoringError
from serve_app.scoring.arrays import Array
from serve_app.scoring.cells import excerpt
from serve_app.serving.metrics import ReplicaMetrics

__all__ = ["CountedModel", "LocalClassifier", "MatrixScorer", "RemoteClassifier"]

_ARRIVAL_TIMEOUT_S = 10.0  # how long a matrix looks for a classifier that holds its version
_RESEND_INTERVAL_S = 0.1


class MatrixScorer(Protocol):
    """Scores a matrix of features, wherever the model is."""

    async def score_matrix(self, matrix: Array) -> Array:
        """Probabilities of shape (rows, classes) for a matrix of shape (rows, features)."""
        ...


class RemoteClassifier:
    """The model behind the handle of a Classifier deployment.

    Args:
        handle: Ray Serve's.
        components: those that the matrices are made with.
    """

    def __init__(self, handle: Any, components: Components) -> None:
        # The arguments are bytes already; cloudpickle, Ray Serve's default, only costs more here.
        self._score = handle.options(request_serialization="pickle", response_serialization="pickle").score
        self._digest = components.digest

    async def score_matrix(self, matrix: Array) -> Array:
        """Probabilities of shape (rows, classes) for a matrix of shape (rows, features)."""
        content, first_sent = matrix.tobytes(), perf_counter()
        answer: bytes | NotScorableError | ScoringError = await self._score.remote(self._digest, content)
        while isinstance(answer, ScoringError) and perf_counter() < first_sent + _ARRIVAL_TIMEOUT_S:
            # That replica does not hold the version. Another may.
            await asyncio.sleep(_RESEND_INTERVAL_S)
            answer = await self._score.remote(self._digest, content)
        if isinstance(answer, Exception):
            raise answer
        return np.frombuffer(answer).reshape(len(matrix), -1)


class CountedModel:
    """The model itself, where it is held: each batch and its seconds are counted.

    Args:
        components: of one version.
        metrics: of the replica.
    """

    def __init__(self, components: Components, metrics: ReplicaMetrics) -> None:
        self.components = components
        self.metrics = metrics

    def score(self, matrix: Array) -> Array:
        """Probabilities of shape (rows, classes) for a matrix of shape (rows, features).

        Raises:
            NotScorableError: the estimator cannot take one of the rows.
        """
        start = perf_counter()
        try:
            probabilities = self.components.scorer.score(matrix)
        # By these an estimator says that its input is not to its taste; all else (memory, threads) is no fault of the rows.
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise NotScorableError(f"{type(error).__name__}: {excerpt(str(error))}") from error
        self.metrics.record_batch(len(matrix), perf_counter() - start)
        return probabilities


class LocalClassifier:
    """The model in the same process, for the fused topology.

    Args:
        model: of the version that the matrices are made with.
    """

    def __init__(self, model: CountedModel) -> None:
        self._score = model.score

    async def score_matrix(self, matrix: Array) -> Array:
        """Probabilities of shape (rows, classes) for a matrix of shape (rows, features)."""
        return self._score(matrix)
