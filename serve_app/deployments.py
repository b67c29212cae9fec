"""The two deployments of the graph: what a Preprocessor and a Classifier replica do.

Owns the way of a request through them and the hop between the two. Plain classes: app.py wraps them as deployments. Knows
no HTTP; api.py calls ``predict`` and ``is_ready``.

A request is read and checked before it is merged with others, so a bad one can fail only itself.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from ray import serve

from serve_app.answers import AnswerEncoder
from serve_app.batching import RowBatcher, concatenate, count_rows, split
from serve_app.components import GOLDEN_TOLERANCE, Components, load_components
from serve_app.config import Settings, resolve_path
from serve_app.errors import FieldProblem, InvalidRowsError, ScoringError
from serve_app.metrics import ReplicaMetrics

__all__ = ["Classifier", "LocalClassifier", "MatrixScorer", "Preprocessor", "RemoteClassifier"]

Array = NDArray[np.float64]

_logger = logging.getLogger("ray.serve")  # the logger whose records Ray Serve keeps with the replica's
_FLOAT_BYTES = 8
_MAX_MESSAGE_BYTES = 3 * 1024 * 1024  # Ray Serve's handles refuse messages of 4 MiB unless told otherwise


class Classifier:
    """Holds the model; scores matrices, merging those of many preprocessors.

    Args:
        settings: of the whole application.
    """

    def __init__(self, settings: Settings) -> None:
        self._components = load_components(resolve_path(settings.components))
        self._scorer = self._components.scorer
        self._metrics = ReplicaMetrics(self._components)
        batches = settings.classifier_batches
        self._score = serve.batch(
            max_batch_size=batches.max_rows,
            batch_wait_timeout_s=batches.wait_timeout_s,
            max_concurrent_batches=batches.max_concurrent_batches,
            batch_size_fn=count_rows,  # cannot fail: one that raises would end the batching task
        )(self._batch_function())

    async def score(self, digest: str, matrix: bytes) -> bytes:
        """Probabilities of a matrix; both are the bytes of C-ordered float64 arrays, which cost less to send than arrays.

        Args:
            digest: of the components that the matrix was made with.
            matrix: shape (rows, features); at most ``classifier_batches.max_rows`` rows.

        Raises:
            ScoringError: this replica holds other components.
        """
        if digest != self._components.digest:
            raise ScoringError("the classifier and the preprocessor hold different model components")
        features = len(self._components.manifest.features)
        probabilities: Array = await self._score(np.frombuffer(matrix).reshape(-1, features))
        return probabilities.tobytes()

    async def check_health(self) -> None:
        """Raises RuntimeError when the batching task, which nothing revives, has ended; Ray Serve calls it now and then."""
        self._metrics.tell_facts()
        if not await self._score._is_batching_task_alive():  # noqa: SLF001 - the only way to see it
            raise RuntimeError("the batching task has ended")

    def _batch_function(self) -> Callable[[list[Array]], Awaitable[list[Array]]]:
        """What ``@serve.batch`` wraps: a function that carries its signature, for it is asked for on every call."""

        async def score_batch(batch: list[Array]) -> list[Array]:
            matrix = concatenate(batch)
            start = perf_counter()
            probabilities = self._scorer.score(matrix)
            self._metrics.record_batch(len(matrix), perf_counter() - start)
            return split(probabilities, batch)

        score_batch.__signature__ = inspect.signature(score_batch)  # type: ignore[attr-defined]
        return score_batch


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
        answer: bytes = await self._score.remote(self._digest, matrix.tobytes())
        return np.frombuffer(answer).reshape(len(matrix), -1)


class LocalClassifier:
    """The model in the same process, for the fused topology.

    Args:
        components: those that the matrices are made with.
        metrics: of the replica.
    """

    def __init__(self, components: Components, metrics: ReplicaMetrics) -> None:
        self._scorer = components.scorer
        self._metrics = metrics

    async def score_matrix(self, matrix: Array) -> Array:
        """Probabilities of shape (rows, classes) for a matrix of shape (rows, features)."""
        start = perf_counter()
        probabilities = self._scorer.score(matrix)
        self._metrics.record_batch(len(matrix), perf_counter() - start)
        return probabilities


class _ParsedRequest(NamedTuple):
    values: Array  # of the good rows
    problems: list[FieldProblem]
    warnings: list[FieldProblem]


class Preprocessor:
    """The ingress: reads and checks rows, makes features of them, has them scored, writes the answers.

    Args:
        settings: of the whole application.
        classifier: the handle of the Classifier deployment, or None in the fused topology, where this replica scores.
    """

    def __init__(self, settings: Settings, classifier: Any | None) -> None:
        self.settings = settings
        self.components = load_components(resolve_path(settings.components))
        self._metrics = ReplicaMetrics(self.components)
        manifest = self.components.manifest
        self._parser = self.components.parser(settings.limits.max_rows)
        self._answers = AnswerEncoder(
            classes=manifest.classes, threshold=manifest.threshold, selected_features=manifest.selected_features
        )
        row_bytes = _FLOAT_BYTES * max(len(manifest.features), len(manifest.classes))
        self._max_rows = min(settings.preprocessor_batches.max_rows, max(1, _MAX_MESSAGE_BYTES // row_bytes))
        self._classifier: MatrixScorer
        self._batcher: RowBatcher | None
        if classifier is None:
            # Nothing to wait for and nothing to share: merging would cost more than scoring.
            self._classifier, self._batcher = LocalClassifier(self.components, self._metrics), None
        else:
            self._classifier = RemoteClassifier(classifier, self.components)
            self._batcher = RowBatcher(
                self._score_batch,
                max_rows=self._max_rows,
                max_concurrent_batches=settings.preprocessor_batches.max_concurrent_batches,
            )
        self._golden_values, self._golden_probabilities = self.components.golden_values()

    async def predict(self, body: bytes | bytearray, *, report_bad_rows: bool = False) -> list[bytes]:
        """The JSON array of answers, in pieces, to a request's body; in the order of its rows.

        Args:
            body: a JSON array of row objects, or one row object.
            report_bad_rows: put an error object in a bad row's place instead of refusing the request.

        Raises:
            RequestError: the request, or a row of it, cannot be scored; nothing of it was.
            ScoringError: the classifier failed.
        """
        parsed = await self._parse(body)
        if parsed.problems:
            self._metrics.record_refused(parsed.problems)
            if not report_bad_rows:
                raise InvalidRowsError(parsed.problems)
        probabilities = await self._score(parsed.values)
        self._metrics.record_scored(parsed.values, probabilities, parsed.warnings)
        pieces = []
        for piece in self._answers.encode(probabilities, parsed.warnings, parsed.problems):
            pieces.append(piece)
            if len(pieces) > 2:  # the first is all of a small answer, with its bracket; give way only in large ones
                await asyncio.sleep(0)
        return pieces

    async def is_ready(self) -> bool:
        """Whether the golden rows, sent through both deployments, get their recorded probabilities."""
        try:
            async with asyncio.timeout(self.settings.limits.ready_timeout_s):
                probabilities = await self._score(self._golden_values)
        except (TimeoutError, ScoringError) as error:
            _logger.warning("not ready: %s", str(error) or "the round trip takes too long")
            return False
        return bool(np.abs(probabilities - self._golden_probabilities).max() <= GOLDEN_TOLERANCE)

    async def check_health(self) -> None:
        """Healthy as long as it answers at all; Ray Serve calls it now and then."""
        self._metrics.tell_facts()

    async def _parse(self, body: bytes | bytearray) -> _ParsedRequest:
        values: list[Array] = []
        problems: list[FieldProblem] = []
        warnings: list[FieldProblem] = []
        for chunk in self._metrics.timed(self._parser.chunks(body)):
            if values:
                await asyncio.sleep(0)  # a large request: let others work between two chunks
            values.append(chunk.values)
            problems += chunk.problems
            warnings += chunk.warnings
        return _ParsedRequest(concatenate(values), problems, warnings)

    async def _score(self, values: Array) -> Array:
        """Probabilities of shape (rows, classes) of a values array of any length.

        Raises:
            ScoringError: the classifier failed.
        """
        score_piece = self._score_values if self._batcher is None else self._batcher.score
        if 0 < len(values) <= self._max_rows:
            return await score_piece(values)
        pieces = [values[start : start + self._max_rows] for start in range(0, len(values), self._max_rows)]
        results = await asyncio.gather(*map(score_piece, pieces))
        return concatenate([np.empty((0, len(self.components.manifest.classes))), *results])

    async def _score_values(self, values: Array) -> Array:
        start = perf_counter()
        matrix = self.components.encoder.encode(values)
        self._metrics.transform_seconds += perf_counter() - start
        return await self._classifier.score_matrix(matrix)

    async def _score_batch(self, batch: list[Array]) -> Sequence[Array]:
        values = concatenate(batch)
        self._metrics.record_batch(len(values))
        try:
            probabilities = await self._score_values(values)
        # Whatever a lost, overloaded or stopping replica makes Ray raise, each request gets an answer.
        except (Exception, asyncio.CancelledError) as error:
            _logger.exception("the classifier did not score a batch of %d requests", len(batch))
            raise ScoringError(f"the classifier failed: {type(error).__name__}") from error
        return split(probabilities, batch)
