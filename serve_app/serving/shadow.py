"""A version of the model that gets copies of requests, and whose answers nobody sees: they are compared and counted.

Owns the comparison and its metrics. What the client gets, and when, never depends on it.
"""

from __future__ import annotations

import asyncio
import logging
import random

import numpy as np
from ray.serve import metrics

from serve_app.config import Limits
from serve_app.errors import RequestError, ScoringError
from serve_app.scoring.arrays import Array
from serve_app.scoring.scorers import predicted_class_indices
from serve_app.serving.pipeline import Pipeline, Scored

__all__ = ["DIFFERENCE_BOUNDARIES", "Shadow"]

DIFFERENCE_BOUNDARIES = [1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
_MOST_AT_ONCE = 8
_MOST_BYTES = 32 * 1024 * 1024  # of bodies that wait for their comparison, which nothing else counts any more
_MOST_OBSERVED = 100  # differences of a request that go into the histogram: each costs some microseconds

_logger = logging.getLogger("ray.serve")


class Shadow:
    """Compares a version with the one that answers.

    Args:
        pipeline: of the version that is tried out.
        share: of the requests that it gets a copy of.
        limits: of a request; ``score_timeout_s`` holds for its copy, too.
    """

    def __init__(self, pipeline: Pipeline, share: float, limits: Limits) -> None:
        self.pipeline = pipeline
        self.share = share
        self._timeout_s = limits.score_timeout_s
        self._held_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._rows = metrics.Counter(
            "class_prediction_shadow_rows", description="Rows that the shadow scored too.", tag_keys=("version",)
        )
        self._disagreements = metrics.Counter(
            "class_prediction_shadow_disagreements",
            description="Rows that the shadow puts into another class.",
            tag_keys=("version",),
        )
        self._skipped = metrics.Counter(
            "class_prediction_shadow_skipped",
            description="Requests that the shadow should have scored and did not, by reason.",
            tag_keys=("version", "reason"),
        )
        self._difference = metrics.Histogram(
            "class_prediction_shadow_difference",
            description="Largest difference of a row's probabilities from those that the client got.",
            boundaries=DIFFERENCE_BOUNDARIES,
            tag_keys=("version",),
        )
        self._tags = {"version": pipeline.components.manifest.version}

    def offer(self, body: bytes | bytearray, answered: Pipeline, scored: Scored) -> None:
        """Takes a copy of a request that ``answered`` has scored, unless too much waits already; one is taken at any size."""
        if random.random() >= self.share:  # noqa: S311 - a sample, no secret
            return
        if len(self._tasks) >= _MOST_AT_ONCE or (self._tasks and self._held_bytes + len(body) > _MOST_BYTES):
            self._skip("busy")
            return
        self._held_bytes += len(body)
        task = asyncio.get_running_loop().create_task(self._compare(body, answered, scored))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _compare(self, body: bytes | bytearray, answered: Pipeline, scored: Scored) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                other = await self.pipeline.score(body, report_bad_rows=True, is_answered=False)
        except RequestError:
            self._skip("refused")
        except (ScoringError, TimeoutError):
            self._skip("failed")
        except Exception:
            _logger.exception("the shadow failed")
            self._skip("failed")
        else:
            bad_rows = {problem.row for problem in scored.problems}
            if bad_rows != {problem.row for problem in other.problems}:
                self._skip("other_rows")
            else:
                self._record(answered, scored.probabilities, other.probabilities)
        finally:
            self._held_bytes -= len(body)

    def _record(self, answered: Pipeline, expected: Array, found: Array) -> None:
        if len(expected) == 0:
            return
        ours, theirs = answered.components.manifest, self.pipeline.components.manifest
        classes = np.array(ours.classes)[predicted_class_indices(expected, ours.threshold)]
        shadow_classes = np.array(theirs.classes)[predicted_class_indices(found, theirs.threshold)]
        disagreements = int((classes != shadow_classes).sum())
        self._rows.inc(len(expected), tags=self._tags)
        if disagreements:
            self._disagreements.inc(disagreements, tags=self._tags)
        if ours.classes == theirs.classes:
            differences = np.abs(expected - found).max(axis=1)
            for difference in differences[:: -(-len(differences) // _MOST_OBSERVED)].tolist():
                self._difference.observe(difference, tags=self._tags)

    def _skip(self, reason: str) -> None:
        self._skipped.inc(tags={**self._tags, "reason": reason})
