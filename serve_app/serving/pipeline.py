"""One request through one version of the model: JSON to checked rows, features, probabilities, answers.

Owns the steps between the body and the answers, and merging the rows of concurrent requests for the Classifier. Everything that
depends on the model's components is built here, so that a request which stays with one pipeline never sees two versions. Knows
no HTTP, and not which version serves.

A request is decoded and checked before it is merged with others, so a bad one can fail only itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from serve_app.components.compiled import Components
from serve_app.components.golden_rows import GOLDEN_TOLERANCE
from serve_app.config import Settings
from serve_app.errors import FieldProblem, InvalidRowsError, NotScorableError, ScoringError, TooManyRowsError
from serve_app.scoring.answers import AnswerEncoder
from serve_app.scoring.arrays import Array, concatenate, split
from serve_app.scoring.explanation import Explainer, Explanation
from serve_app.scoring.scorers import predicted_class_indices
from serve_app.serving.batching import Result, RowBatcher, first_failing_row, score_by_halves
from serve_app.serving.matrix_scorers import CountedModel, LocalClassifier, MatrixScorer, RemoteClassifier
from serve_app.serving.metrics import ReplicaMetrics
from serve_app.serving.replica_log import logger

__all__ = ["Pipeline", "Scored"]

_FLOAT_BYTES = 8
_MAX_MESSAGE_BYTES = 3 * 1024 * 1024  # by default Ray Serve's handles refuse messages of 4 MiB


class Scored(NamedTuple):
    """The scored rows of a request.

    ``values`` has the shape (good rows, columns), ``probabilities`` (good rows, classes). ``problems`` belong to the bad rows.
    """

    values: Array
    probabilities: Array
    problems: list[FieldProblem]
    warnings: list[FieldProblem]


class _ParsedRequest(NamedTuple):
    values: Array  # good rows only
    problems: list[FieldProblem]
    warnings: list[FieldProblem]


class Pipeline:
    """One version of the model, from JSON to JSON.

    Args:
        settings: settings of the application.
        components: the version.
        classifier: handle of the Classifier deployment; None in the fused topology, where this replica scores.
    """

    def __init__(self, settings: Settings, components: Components, classifier: Any | None) -> None:
        self.components = components
        self.metrics = ReplicaMetrics(components)
        manifest = components.manifest
        limits = settings.limits
        self._parser = components.parser(
            limits.max_rows, max_text_characters=limits.max_text_characters, max_nesting=limits.max_nesting
        )
        self._answers = AnswerEncoder(
            classes=manifest.classes, threshold=manifest.threshold, selected_features=manifest.selected_features
        )
        self._explainer = Explainer(
            components.model, components.encoder, components.scorer, manifest.classes, components.feature_means
        )
        row_bytes = _FLOAT_BYTES * max(len(manifest.features), len(manifest.classes))
        self._max_rows = min(settings.preprocessor_batches.max_rows, max(1, _MAX_MESSAGE_BYTES // row_bytes))
        self._classifier: MatrixScorer
        self._batcher: RowBatcher | None
        if classifier is None:
            # There is no remote call to share, so merging would cost more than scoring.
            self._classifier, self._batcher = LocalClassifier(CountedModel(components, self.metrics)), None
        else:
            self._classifier = RemoteClassifier(classifier, components)
            self._batcher = RowBatcher(
                self._score_batch,
                max_rows=self._max_rows,
                max_concurrent_batches=settings.preprocessor_batches.max_concurrent_batches,
            )
        self._golden_values, self._golden_probabilities = components.golden_values()

    async def score(
        self, body: bytes | bytearray, *, report_bad_rows: bool = False, max_rows: int | None = None, is_answered: bool = True
    ) -> Scored:
        """Probabilities of a request's rows.

        Args:
            body: a JSON array of row objects, or one row object.
            report_bad_rows: score the good rows even if others are bad.
            max_rows: the most good rows, if that is less than the settings allow.
            is_answered: whether a client gets the answers. If not, the rows are not counted as scored or refused.

        Raises:
            RequestError: the body is no array of rows, or has too many.
            InvalidRowsError: some rows are bad, and ``report_bad_rows`` is off; no row was scored.
            NotScorableError: the model cannot score one of the rows; names the row if ``is_answered``.
            ScoringError: the classifier failed.
        """
        parsed = await self._parse(body)
        if parsed.problems:
            if is_answered:
                self.metrics.record_refused(parsed.problems)
            if not report_bad_rows:
                raise InvalidRowsError(parsed.problems)
        if max_rows is not None and len(parsed.values) > max_rows:
            raise TooManyRowsError(max_rows)
        try:
            probabilities = await self._score_rows(parsed.values)
        except NotScorableError as error:
            if not is_answered:
                raise
            raise NotScorableError(error.reason, await self._failing_row(parsed)) from error
        if is_answered:
            self.metrics.record_scored(parsed.values, probabilities, parsed.warnings)
        return Scored(parsed.values, probabilities, parsed.problems, parsed.warnings)

    async def encode(self, scored: Scored, *, explain: bool = False) -> list[bytes]:
        """The JSON array of answers, in pieces, in the order of the rows, with an error object for each bad row.

        Args:
            scored: rows that this pipeline has scored.
            explain: add the reasons to each answer.
        """
        explanations = await self._explain(scored.values, scored.probabilities) if explain else ()
        pieces = []
        for piece in self._answers.encode(scored.probabilities, scored.warnings, scored.problems, explanations):
            pieces.append(piece)
            if len(pieces) > 2:  # a small answer has two pieces; in a large one, let other requests work
                await asyncio.sleep(0)
        return pieces

    async def scores_golden_rows(self) -> bool:
        """Whether the golden rows get their recorded probabilities, through the Classifier if there is one.

        Raises:
            ScoringError: the classifier failed.
        """
        probabilities = await self._score_rows(self._golden_values)
        return bool(np.abs(probabilities - self._golden_probabilities).max() <= GOLDEN_TOLERANCE)

    async def _parse(self, body: bytes | bytearray) -> _ParsedRequest:
        values: list[Array] = []
        problems: list[FieldProblem] = []
        warnings: list[FieldProblem] = []
        for chunk in self.metrics.timed(self._parser.chunks(body)):
            if values:
                await asyncio.sleep(0)  # a large request: let other requests work between two chunks
            values.append(chunk.values)
            problems += chunk.problems
            warnings += chunk.warnings
        return _ParsedRequest(concatenate(values), problems, warnings)

    async def _explain(self, values: Array, probabilities: Array) -> list[Explanation]:
        predicted = predicted_class_indices(probabilities, self.components.manifest.threshold).tolist()
        # Off the event loop: a row takes milliseconds with trees.
        return await asyncio.to_thread(self._explainer.explain, values, predicted)

    async def _score_rows(self, values: Array) -> Array:
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

    async def _failing_row(self, parsed: _ParsedRequest) -> int | None:
        """The first row of a request that the model cannot score by itself, counted with the bad rows."""
        found = await first_failing_row(parsed.values, self._score_values, max_rows=self._max_rows)
        if found is None:
            return None
        for bad_row in sorted({problem.row for problem in parsed.problems}):
            found += bad_row <= found
        return found

    async def _score_values(self, values: Array) -> Array:
        start = perf_counter()
        matrix = self.components.encoder.encode(values)
        self.metrics.transform_seconds += perf_counter() - start
        return await self._classifier.score_matrix(matrix)

    async def _score_batch(self, batch: list[Array]) -> Sequence[Result]:
        return await score_by_halves(batch, self._score_merged)

    async def _score_merged(self, batch: list[Array]) -> Sequence[Result]:
        """The probabilities of each array, or the error of the Classifier for each.

        Raises:
            NotScorableError: the model cannot score one of the rows.
        """
        values = concatenate(batch)
        self.metrics.record_batch(len(values))
        try:
            return split(await self._score_values(values), batch)
        except NotScorableError:
            raise
        # Whatever Ray raises for a lost, overloaded or stopping replica, each request gets an answer.
        except (Exception, asyncio.CancelledError) as error:
            logger.exception("the classifier did not score a batch of %d requests", len(batch))
            failure = ScoringError(f"the classifier failed: {type(error).__name__}")
            failure.__cause__ = error
            return [failure] * len(batch)
