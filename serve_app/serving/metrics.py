"""What a replica tells Prometheus of the rows that it scores, through Ray's metrics; docs/metrics.md explains each of them.

Owns their names, tags and units. One call of a Ray counter costs some microseconds, as much as scoring a row does. So the way
of a request only adds up plain numbers and keeps a reference to its arrays; a task hands the sums over to Ray once a second
while there is something to hand over. Knows no HTTP: requests, their latency and their status codes are counted by Ray Serve.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from time import perf_counter
from typing import Any

import numpy as np
from ray.serve import metrics

from serve_app.components.compiled import Components
from serve_app.errors import FieldProblem
from serve_app.scoring.arrays import Array, concatenate
from serve_app.scoring.rows import RowChunk
from serve_app.scoring.scorers import predicted_class_indices
from serve_app.serving.drift_window import DriftWatch

__all__ = ["BATCH_ROWS_BOUNDARIES", "ReplicaMetrics"]

BATCH_ROWS_BOUNDARIES = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0]
_FLUSH_INTERVAL_S = 1.0
_Fact = tuple[Any, float, dict[str, str]]  # gauge, value and tags
_MAX_KEPT_ROWS = 65536  # of which the arrays are kept until the sums are made

_logger = logging.getLogger("ray.serve")  # the logger whose records Ray Serve keeps with the replica's


class ReplicaMetrics:
    """The metrics of one replica, of either deployment. All methods belong to the replica's event loop.

    A figure that cannot be told is logged, and never fails a request or a health check.

    Args:
        components: those that the replica holds.
    """

    def __init__(self, components: Components) -> None:
        manifest = components.manifest
        self.transform_seconds = 0.0
        """Time spent on making features of values, not handed over yet."""
        self.drift: DriftWatch | None = None
        """What is counted for drift; None where the manifest does not tell how the training rows were distributed."""
        if manifest.distribution:
            self.drift = DriftWatch(components.digest, manifest.distribution, uuid.uuid4().hex)
            self._psi = metrics.Gauge(
                "class_prediction_psi",
                description="Population stability index of a column's values, as seen by this replica alone.",
                tag_keys=("column",),
            )
        self._version = manifest.version
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

        self._rows_scored = _counter(
            "rows_scored", "Rows that were scored, by the class that they were given.", "version", "predicted_class"
        )
        self._rows_refused = _counter(
            "rows_refused", "Rows that could not be scored, by their first problem.", "version", "reason"
        )
        self._nulls = _counter("nulls", "Cells of scored rows that were null or empty.", "column")
        self._unknown_categories = _counter(
            "unknown_categories", "Cells whose category the model does not know, scored as if they were null.", "column"
        )
        self._seconds = {
            stage: _counter(f"{stage}_seconds", f"Seconds spent on {what}.")
            for stage, what in (
                ("decode", "reading and checking the JSON of requests"),
                ("transform", "making features of rows"),
                ("score", "scoring features"),
            )
        }
        self._batch_rows = metrics.Histogram(
            "class_prediction_batch_rows",
            description="Rows that were processed together.",
            boundaries=BATCH_ROWS_BOUNDARIES,
        )
        self._info = _info(components)
        self._training = _training(components)

    def timed(self, chunks: Iterable[RowChunk]) -> Iterator[RowChunk]:
        """The same chunks; what it takes to make them counts as decoding, what their consumer does in between does not."""
        start = perf_counter()
        for chunk in chunks:
            self._decode_seconds += perf_counter() - start
            yield chunk
            start = perf_counter()

    def record_batch(self, rows: int, score_seconds: float = 0.0) -> None:
        """So many rows were processed together; ``score_seconds`` of it by the model."""
        self._batches.append(rows)
        self._score_seconds += score_seconds
        self._flush_soon()

    def record_scored(self, values: Array, probabilities: Array, warnings: Sequence[FieldProblem]) -> None:
        """The rows of a request were scored.

        Args:
            values: shape (rows, selected columns).
            probabilities: shape (rows, classes).
            warnings: the unknown categories among them.
        """
        self._values.append(values)
        self._probabilities.append(probabilities)
        self._kept_rows += len(values)
        if warnings:
            self._unknown.update(str(warning.field) for warning in warnings)
        self._flush_soon()

    def record_refused(self, problems: Sequence[FieldProblem]) -> None:
        """Rows could not be scored; ``problems`` are all that is wrong with them, in the order of the rows."""
        first = {problem.row: problem.code for problem in reversed(problems)}
        self._refused.update(first.values())
        self._flush_soon()

    def tell_held(self) -> None:
        """Tells that the replica holds the model; Ray forgets a gauge that is not set again within 20 s."""
        self._tell([self._info])

    def tell_serving(self) -> None:
        """Tells of the version that serves how its training rows were, too: rows are compared with those of one version."""
        self._tell([self._info, *self._training])

    def _tell(self, facts: Iterable[_Fact]) -> None:
        try:
            for gauge, value, tags in facts:
                gauge.set(value, tags)
            if self.drift is not None:
                for column, value in self.drift.psi().items():
                    self._psi.set(value, {"column": column})
        except Exception:
            _logger.exception("a gauge could not be set")

    def flush(self) -> None:
        """Hands over to Ray what was recorded since the last time."""
        try:
            self._hand_over()
        except Exception:
            _logger.exception("what was counted could not be handed over")
        finally:
            self._forget()

    def _hand_over(self) -> None:
        if self._values:
            values, probabilities = concatenate(self._values), concatenate(self._probabilities)
            # Nulls are few: counting their columns takes a tenth of the time of a sum along the rows.
            columns_of_nulls = np.flatnonzero(np.isnan(values)) % len(self._columns)
            null_counts = np.bincount(columns_of_nulls, minlength=len(self._columns)).tolist()
            nulls = dict(zip(self._columns, null_counts, strict=True))
            for column, cells in self._unknown.items():
                nulls[column] -= cells
            classes = np.bincount(predicted_class_indices(probabilities, self._threshold), minlength=len(self._classes))
            _add(self._nulls, "column", nulls)
            scored = dict(zip(self._classes, classes.tolist(), strict=True))
            _add(self._rows_scored, "predicted_class", scored, version=self._version)
            _add(self._unknown_categories, "column", self._unknown)
            if self.drift is not None:
                self.drift.record(values, probabilities)
        _add(self._rows_refused, "reason", self._refused, version=self._version)
        for rows in self._batches:
            self._batch_rows.observe(rows)
        for counter, seconds in zip(
            self._seconds.values(), (self._decode_seconds, self.transform_seconds, self._score_seconds), strict=True
        ):
            if seconds > 0:
                counter.inc(seconds)

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
        finally:  # when the event loop ends, too
            self._task = None
            self.flush()


def _counter(name: str, description: str, *tag_keys: str) -> Any:
    return metrics.Counter(f"class_prediction_{name}", description=description, tag_keys=tag_keys)


def _add(counter: Any, tag: str, counts: dict[str, int], **tags: str) -> None:
    for value, count in counts.items():
        if count > 0:
            counter.inc(count, {**tags, tag: value})


def _info(components: Components) -> _Fact:
    manifest = components.manifest
    info = metrics.Gauge(
        "class_prediction_model_info",
        description="1, with the model's name, version and digest as labels.",
        tag_keys=("model", "version", "digest"),
    )
    return info, 1.0, {"model": manifest.name, "version": manifest.version, "digest": components.digest}


def _training(components: Components) -> list[_Fact]:
    """What is true of the rows that trained the model."""
    manifest = components.manifest
    facts: list[_Fact] = []
    positive_share = manifest.training.get("positive_share", {}).get("train")
    if positive_share is not None:
        share = metrics.Gauge(
            "class_prediction_training_positive_share",
            description="Share of positives among the rows that trained the model; with their class, as rows_scored names it.",
            tag_keys=("version", "predicted_class"),
        )
        facts.append((share, float(positive_share), {"version": manifest.version, "predicted_class": str(manifest.classes[1])}))
    null_shares = manifest.training.get("null_shares", {})
    if null_shares:
        share = metrics.Gauge(
            "class_prediction_training_null_share",
            description="Share of nulls in a column of the rows that trained the model.",
            tag_keys=("column",),
        )
        facts += [(share, float(value), {"column": name}) for name, value in null_shares.items()]
    return facts
