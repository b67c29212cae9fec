"""The shadow: a version of the model on trial, which scores copies of requests so that its answers can be compared.

Owns the comparison and its metrics. Never delays or changes what the client gets.
"""

from __future__ import annotations

import asyncio
import random

import numpy as np

from serve_app.config import Limits
from serve_app.errors import RequestError, ScoringError
from serve_app.scoring.arrays import Array
from serve_app.scoring.scorers import predicted_class_indices
from serve_app.serving.metric_definitions import (
    SHADOW_DIFFERENCE,
    SHADOW_DISAGREEMENTS,
    SHADOW_ROWS,
    SHADOW_SKIPPED,
    make_counter,
    make_histogram,
)
from serve_app.serving.pipeline import Pipeline, Scored
from serve_app.serving.replica_log import logger

__all__ = ["Shadow"]

_MAX_COMPARISONS = 8  # at once
_MAX_HELD_BYTES = 32 * 1024 * 1024  # bodies that wait for their comparison no longer count towards the limit of requests
_MAX_OBSERVED = 100  # differences per request that go into the histogram: each costs some microseconds


class Shadow:
    """Compares a version on trial with the version that answers.

    Args:
        pipeline: pipeline of the version on trial.
        share: share of the requests that are copied.
        limits: limits of one request; ``score_timeout_s`` applies to its copy, too.
    """

    def __init__(self, pipeline: Pipeline, share: float, limits: Limits) -> None:
        self.pipeline = pipeline
        self.share = share
        self._timeout_s = limits.score_timeout_s
        self._held_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._rows = make_counter(SHADOW_ROWS)
        self._disagreements = make_counter(SHADOW_DISAGREEMENTS)
        self._skipped = make_counter(SHADOW_SKIPPED)
        self._difference = make_histogram(SHADOW_DIFFERENCE)
        self._tags = {"version": pipeline.components.version_label}

    def offer(self, body: bytes | bytearray, answered: Pipeline, scored: Scored) -> None:
        """Compares a request that ``answered`` has scored, unless too many wait already. A single request may have any size."""
        if random.random() >= self.share:  # noqa: S311 - a sample, no secret
            return
        if len(self._tasks) >= _MAX_COMPARISONS or (self._tasks and self._held_bytes + len(body) > _MAX_HELD_BYTES):
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
            logger.exception("the shadow failed")
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
            for difference in differences[:: -(-len(differences) // _MAX_OBSERVED)].tolist():
                self._difference.observe(difference, tags=self._tags)

    def _skip(self, reason: str) -> None:
        self._skipped.inc(tags={**self._tags, "reason": reason})
