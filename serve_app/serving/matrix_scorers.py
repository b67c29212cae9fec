"""Scores feature matrices with one version of the model, in this process or in a Classifier replica.

Owns the one remote call between the two deployments: its format, and sending a matrix again if a replica does not hold the
version yet. Also decides which exceptions of an estimator are the fault of the rows. Knows no rows, columns or batches.
"""

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

_ARRIVAL_TIMEOUT_S = 10.0  # how long to look for a classifier that holds the version
_RESEND_INTERVAL_S = 0.1


class MatrixScorer(Protocol):
    """Scores a matrix of features."""

    async def score_matrix(self, matrix: Array) -> Array:
        """Probabilities of shape (rows, classes) for a matrix of shape (rows, features)."""
        ...


class RemoteClassifier:
    """Scores in a Classifier replica.

    Args:
        handle: Ray Serve's handle of the Classifier deployment.
        components: the version that the matrices are made with.
    """

    def __init__(self, handle: Any, components: Components) -> None:
        # The arguments are bytes already, for which Ray Serve's default, cloudpickle, only costs more.
        self._score = handle.options(request_serialization="pickle", response_serialization="pickle").score
        self._digest = components.digest

    async def score_matrix(self, matrix: Array) -> Array:
        """Probabilities of shape (rows, classes) for a matrix of shape (rows, features).

        Raises:
            NotScorableError: the model cannot score one of the rows.
            ScoringError: no replica held the version in time.
        """
        content, first_sent = matrix.tobytes(), perf_counter()
        answer: bytes | NotScorableError | ScoringError = await self._score.remote(self._digest, content)
        while isinstance(answer, ScoringError) and perf_counter() < first_sent + _ARRIVAL_TIMEOUT_S:
            # That replica does not hold the version, but another may.
            await asyncio.sleep(_RESEND_INTERVAL_S)
            answer = await self._score.remote(self._digest, content)
        if isinstance(answer, Exception):
            raise answer
        return np.frombuffer(answer).reshape(len(matrix), -1)


class CountedModel:
    """The model itself, which counts its batches and their seconds.

    Args:
        components: one version.
        metrics: the replica's metrics of that version.
    """

    def __init__(self, components: Components, metrics: ReplicaMetrics) -> None:
        self.components = components
        self.metrics = metrics

    def score(self, matrix: Array) -> Array:
        """Probabilities of shape (rows, classes) for a matrix of shape (rows, features).

        Raises:
            NotScorableError: the estimator cannot score one of the rows.
        """
        start = perf_counter()
        try:
            probabilities = self.components.scorer.score(matrix)
        # Estimators reject their input with these. Anything else (memory, threads) is not the fault of the rows.
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise NotScorableError(f"{type(error).__name__}: {excerpt(str(error))}") from error
        self.metrics.record_batch(len(matrix), perf_counter() - start)
        return probabilities


class LocalClassifier:
    """Scores in the same process, for the fused topology.

    Args:
        model: the version that the matrices are made with.
    """

    def __init__(self, model: CountedModel) -> None:
        self._score = model.score

    async def score_matrix(self, matrix: Array) -> Array:
        """Probabilities of shape (rows, classes) for a matrix of shape (rows, features)."""
        return self._score(matrix)
