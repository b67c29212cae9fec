"""The two deployments of the graph: what a Preprocessor and a Classifier replica do.

Owns merging (``@serve.batch``, weighed in rows), splitting and the hop between the two. Plain classes: app.py wraps them
as deployments. Knows no HTTP; api.py calls ``predict``, ``is_ready`` and ``components``.

A request is read and checked before it is merged with others, so a bad one can fail only itself. A merged batch is split by
each request's own row count. A failure inside a batch travels to each of its requests as a value, never as an exception:
one exception would fail the batch's bookkeeping for all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from ray import serve
from ray.serve import metrics

from serve_app.answers import AnswerEncoder
from serve_app.components import GOLDEN_TOLERANCE, Components, load_components
from serve_app.config import BatchSettings, Settings, resolve_path
from serve_app.errors import FieldProblem, InvalidRowsError, ScoringError

__all__ = ["Classifier", "MatrixScorer", "Preprocessor", "RemoteClassifier"]

Array = NDArray[np.float64]

_logger = logging.getLogger("ray.serve")  # the logger whose records Ray Serve keeps with the replica's
_FLOAT_BYTES = 8
_MAX_MESSAGE_BYTES = 3 * 1024 * 1024  # Ray Serve's handles refuse messages of 4 MiB unless told otherwise


class MatrixScorer(Protocol):
    """Scores a matrix of features, wherever the model is."""

    async def score_matrix(self, matrix: Array) -> Array:
        """Probabilities of shape (rows, classes) for a matrix of shape (rows, features)."""
        ...


class Classifier:
    """Holds the model; scores matrices, merging those of many preprocessors.

    Args:
        settings: of the whole application.
    """

    def __init__(self, settings: Settings) -> None:
        self._components = load_components(resolve_path(settings.components))
        batches = settings.classifier_batches
        self._score_merged = _merge_by_rows(self._score_batch, batches, batches.max_rows)

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
        probabilities: Array = await self._score_merged(np.frombuffer(matrix).reshape(-1, features))
        return probabilities.tobytes()

    async def score_matrix(self, matrix: Array) -> Array:
        """The same without a hop, for a preprocessor that holds the classifier itself."""
        return self._components.scorer.score(matrix)

    async def check_health(self) -> None:
        """Raises when the replica has to be replaced; Ray Serve calls it from time to time."""
        await _check_batcher(self._score_merged)

    async def _score_batch(self, batch: list[Array]) -> list[Array]:
        return _split(self._components.scorer.score(_concatenate(batch)), batch)


class RemoteClassifier:
    """A Classifier deployment behind its handle.

    Args:
        handle: Ray Serve's handle of the Classifier deployment.
        components: those that the matrices are made with.
    """

    def __init__(self, handle: Any, components: Components) -> None:
        self._score = handle.score
        self._digest = components.digest

    async def score_matrix(self, matrix: Array) -> Array:
        """Probabilities of shape (rows, classes) for a matrix of shape (rows, features)."""
        answer: bytes = await self._score.remote(self._digest, matrix.tobytes())
        return np.frombuffer(answer).reshape(len(matrix), -1)


class _ParsedRequest(NamedTuple):
    values: Array  # of the good rows
    problems: list[FieldProblem]
    warnings: list[FieldProblem]


class Preprocessor:
    """The ingress: reads and checks rows, makes features of them, has them scored, writes the answers.

    Args:
        settings: of the whole application.
        classifier: the handle of the Classifier deployment.
    """

    def __init__(self, settings: Settings, classifier: Any) -> None:
        self.settings = settings
        self.components = load_components(resolve_path(settings.components))
        manifest = self.components.manifest
        self._parser = self.components.parser(settings.limits.max_rows)
        self._encoder = self.components.encoder
        self._answers = AnswerEncoder(
            classes=manifest.classes, threshold=manifest.threshold, selected_features=manifest.selected_features
        )
        self._classifier: MatrixScorer = RemoteClassifier(classifier, self.components)
        row_bytes = _FLOAT_BYTES * max(len(manifest.features), len(manifest.classes))
        self._max_rows = min(settings.preprocessor_batches.max_rows, max(1, _MAX_MESSAGE_BYTES // row_bytes))
        self._score_merged = _merge_by_rows(self._score_batch, settings.preprocessor_batches, self._max_rows)
        self._golden_values, self._golden_probabilities = self.components.golden_values()
        self._unknown_categories = metrics.Counter(
            "class_prediction_unknown_categories",
            description="Cells whose category the model does not know, scored as if they were null.",
            tag_keys=("column",),
        )

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
        if parsed.problems and not report_bad_rows:
            raise InvalidRowsError(parsed.problems)
        for warning in parsed.warnings:
            self._unknown_categories.inc(tags={"column": str(warning.field)})
        probabilities = await self._score(parsed.values)
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
        """Raises when the replica has to be replaced; Ray Serve calls it from time to time."""
        await _check_batcher(self._score_merged)

    async def _parse(self, body: bytes | bytearray) -> _ParsedRequest:
        values: list[Array] = []
        problems: list[FieldProblem] = []
        warnings: list[FieldProblem] = []
        for chunk in self._parser.chunks(body):
            if values:
                await asyncio.sleep(0)  # a large request: let others work between two chunks
            values.append(chunk.values)
            problems += chunk.problems
            warnings += chunk.warnings
        return _ParsedRequest(_concatenate(values), problems, warnings)

    async def _score(self, values: Array) -> Array:
        """Probabilities of shape (rows, classes) of a values array of any length.

        Raises:
            ScoringError: the classifier failed.
        """
        pieces = [values[start : start + self._max_rows] for start in range(0, len(values), self._max_rows)]
        results = await asyncio.gather(*map(self._score_merged, pieces))
        for result in results:
            if isinstance(result, ScoringError):
                raise result
        if not results:
            return np.empty((0, len(self.components.manifest.classes)))
        return _concatenate(results)

    async def _score_batch(self, batch: list[Array]) -> Sequence[Array | ScoringError]:
        matrix = self._encoder.encode(_concatenate(batch))
        try:
            probabilities = await self._classifier.score_matrix(matrix)
        except Exception as error:  # whatever a lost or overloaded replica makes Ray raise, each request gets an answer
            _logger.exception("the classifier did not score a batch of %d rows", len(matrix))
            return [ScoringError(f"the classifier failed: {type(error).__name__}")] * len(batch)
        return _split(probabilities, batch)


def _merge_by_rows(score_batch: Callable[[list[Array]], Awaitable[Any]], batches: BatchSettings, max_rows: int) -> Any:
    """``score_batch`` as a function of one array, which Ray Serve merges with those of concurrent calls."""

    @serve.batch(  # type: ignore[untyped-decorator]
        max_batch_size=max_rows,
        batch_wait_timeout_s=batches.wait_timeout_s,
        max_concurrent_batches=batches.max_concurrent_batches,
        batch_size_fn=_count_rows,
    )
    async def merged(batch: list[Array]) -> Any:
        return await score_batch(batch)

    return merged


def _count_rows(batch: list[Array]) -> int:
    return sum(map(len, batch))  # total: a batch_size_fn that raises would end the batcher for good


async def _check_batcher(merged: Any) -> None:
    if not await merged._is_batching_task_alive():  # noqa: SLF001 - the only way to see a dead batcher
        raise RuntimeError("the batching task has ended")


def _concatenate(arrays: Sequence[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _split(merged: Array, batch: Sequence[Array]) -> list[Array]:
    """``merged`` cut into as many rows as each array of ``batch`` had."""
    if len(batch) == 1:
        return [merged]
    parts, start = [], 0
    for array in batch:
        parts.append(merged[start : start + len(array)])
        start += len(array)
    return parts
