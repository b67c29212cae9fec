"""Counts what a replica does with rows, and hands the sums over to Ray's metrics.

Owns the sums. One call of a Ray counter costs some microseconds, as much as scoring a row does. So a request only adds up plain
numbers and keeps references to its arrays, and a task hands the sums over once a second while there are any. Knows no HTTP:
requests, their latency and their status codes are counted by Ray Serve.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from time import perf_counter

import numpy as np

from serve_app.components.compiled import Components
from serve_app.errors import FieldProblem
from serve_app.scoring.arrays import Array, concatenate
from serve_app.scoring.rows import RowChunk
from serve_app.scoring.scorers import predicted_class_indices
from serve_app.serving.drift_window import DriftWindow
from serve_app.serving.metric_definitions import (
    BATCH_ROWS,
    DECODE_SECONDS,
    NULLS,
    ROWS_REFUSED,
    ROWS_SCORED,
    SCORE_SECONDS,
    TRANSFORM_SECONDS,
    UNKNOWN_CATEGORIES,
    MetricDefinition,
    make_counter,
    make_histogram,
)
from serve_app.serving.model_gauges import ModelGauges
from serve_app.serving.replica_log import logger

__all__ = ["ReplicaMetrics"]

_FLUSH_INTERVAL_S = 1.0
_MAX_KEPT_ROWS = 65536  # of which arrays are kept until the next flush
_COUNTERS = (
    ROWS_SCORED,
    ROWS_REFUSED,
    NULLS,
    UNKNOWN_CATEGORIES,
    DECODE_SECONDS,
    TRANSFORM_SECONDS,
    SCORE_SECONDS,
)


class ReplicaMetrics:
    """The metrics of one version in one replica, of either deployment. All methods belong to the replica's event loop.

    A sum that cannot be handed over is logged, and fails no request and no health check.

    Args:
        components: the version.
    """

    def __init__(self, components: Components) -> None:
        manifest = components.manifest
        self.transform_seconds = 0.0
        """Time spent on turning values into features, since the last flush."""
        self.drift: DriftWindow | None = None
        """The counts for drift; None if the manifest does not describe the training rows."""
        if manifest.distribution:
            self.drift = DriftWindow(components.digest, manifest.distribution, uuid.uuid4().hex)
        self.gauges = ModelGauges(components, self.drift)
        self._version = components.version_label
        self._classes = [str(label) for label in manifest.classes]
        self._threshold = manifest.threshold
        self._columns = [column.name for column in components.encoder.columns]
        self._decode_seconds = 0.0
        self._score_seconds = 0.0
        self._batches: list[int] = []
        self._values: list[Array] = []
        self._probabilities: list[Array] = []
        self._kept_rows = 0
        self._refused: Counter[str] = Counter()
        self._unknown: Counter[str] = Counter()
        self._task: asyncio.Task[None] | None = None
        self._counters = {definition: make_counter(definition) for definition in _COUNTERS}
        self._batch_rows = make_histogram(BATCH_ROWS)

    def timed(self, chunks: Iterable[RowChunk]) -> Iterator[RowChunk]:
        """The same chunks; the time to make them counts as decoding, but not the time that their consumer needs."""
        start = perf_counter()
        for chunk in chunks:
            self._decode_seconds += perf_counter() - start
            yield chunk
            start = perf_counter()

    def record_batch(self, rows: int, score_seconds: float = 0.0) -> None:
        """Counts rows that were processed together, and the seconds that the model needed for them."""
        self._batches.append(rows)
        self._score_seconds += score_seconds
        self._flush_soon()

    def record_scored(self, values: Array, probabilities: Array, warnings: Sequence[FieldProblem]) -> None:
        """Counts the scored rows of a request.

        Args:
            values: shape (rows, selected columns).
            probabilities: shape (rows, classes).
            warnings: the unknown categories among the values.
        """
        self._values.append(values)
        self._probabilities.append(probabilities)
        self._kept_rows += len(values)
        if warnings:
            self._unknown.update(str(warning.field) for warning in warnings)
        self._flush_soon()

    def record_refused(self, problems: Sequence[FieldProblem]) -> None:
        """Counts the rows of a request that could not be scored; ``problems`` are all of theirs, in the order of the rows."""
        first = {problem.row: problem.code for problem in reversed(problems)}
        self._refused.update(first.values())
        self._flush_soon()

    def flush(self) -> None:
        """Hands over to Ray what was recorded since the last time."""
        try:
            self._hand_over()
        except Exception:
            logger.exception("the counts of this replica could not be handed over to Ray")
        finally:
            self._forget()

    def _hand_over(self) -> None:
        if self._values:
            self._hand_over_scored(concatenate(self._values), concatenate(self._probabilities))
        self._add(ROWS_REFUSED, "reason", self._refused, version=self._version)
        for rows in self._batches:
            self._batch_rows.observe(rows)
        for definition, seconds in (
            (DECODE_SECONDS, self._decode_seconds),
            (TRANSFORM_SECONDS, self.transform_seconds),
            (SCORE_SECONDS, self._score_seconds),
        ):
            if seconds > 0:
                self._counters[definition].inc(seconds)

    def _hand_over_scored(self, values: Array, probabilities: Array) -> None:
        # Nulls are few: counting their columns takes a tenth of the time of a sum along the rows.
        columns_of_nulls = np.flatnonzero(np.isnan(values)) % len(self._columns)
        null_counts = np.bincount(columns_of_nulls, minlength=len(self._columns)).tolist()
        nulls = dict(zip(self._columns, null_counts, strict=True))
        for column, cells in self._unknown.items():
            nulls[column] -= cells
        classes = np.bincount(predicted_class_indices(probabilities, self._threshold), minlength=len(self._classes))
        self._add(NULLS, "column", nulls)
        scored = dict(zip(self._classes, classes.tolist(), strict=True))
        self._add(ROWS_SCORED, "predicted_class", scored, version=self._version)
        self._add(UNKNOWN_CATEGORIES, "column", self._unknown)
        if self.drift is not None:
            self.drift.record(values, probabilities)

    def _add(self, definition: MetricDefinition, label: str, counts: Mapping[str, int], **labels: str) -> None:
        for value, count in counts.items():
            if count > 0:
                self._counters[definition].inc(count, {**labels, label: value})

    def _forget(self) -> None:
        for kept in (self._values, self._probabilities, self._unknown, self._refused, self._batches):
            kept.clear()
        self._kept_rows = 0
        self._decode_seconds = self.transform_seconds = self._score_seconds = 0.0

    def _flush_soon(self) -> None:
        if self._kept_rows > _MAX_KEPT_ROWS:
            self.flush()
        elif self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._flush_later())

    async def _flush_later(self) -> None:
        try:
            await asyncio.sleep(_FLUSH_INTERVAL_S)
        finally:  # flush at the end of the event loop, too
            self._task = None
            self.flush()
