"""Counts the scored rows of the last hour for the drift report, over all replicas.

Owns the sliding window and how the counts of the replicas come together; scoring/drift.py owns what is counted and how it is
compared. A replica sees only its share of the rows, so each sends its counts, every few seconds while there are new ones, to
one Ray actor. A replica that is asked for the drift of its model reads the counts of all replicas there. The actor stores bytes
without understanding them. It outlives the replicas; if its node dies, the window starts again.

The window consists of panes of five minutes, and the oldest pane is dropped as a whole.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec
import ray

from serve_app.scoring.arrays import Array
from serve_app.scoring.distribution import Distribution, scores_of
from serve_app.scoring.drift import TOO_FEW_ROWS, BinsDrift, Drift, compare
from serve_app.scoring.drift_counts import Counts
from serve_app.serving.replica_log import logger

__all__ = ["PANES", "PANE_S", "Collector", "DriftWindow", "WindowDrift"]

PANE_S = 300
PANES = 12
_SEND_INTERVAL_S = 5.0
_ACTOR = "class-prediction-drift"


class Collector:
    """The Ray actor: the latest counts of each model, replica and pane, as bytes."""

    def __init__(self) -> None:
        self._held: dict[str, dict[tuple[str, int], bytes]] = {}

    def put(self, digest: str, replica: str, pane: int, content: bytes) -> None:
        """Stores a replica's counts of one pane, and drops panes that are older than the window."""
        self._held.setdefault(digest, {})[replica, pane] = content
        for held in self._held.values():
            for key in [key for key in held if key[1] <= pane - PANES]:
                del held[key]
        self._held = {key: held for key, held in self._held.items() if held}

    def get(self, digest: str, oldest: int) -> list[tuple[str, bytes]]:
        """The counts of a model from the pane ``oldest`` on, each with its replica."""
        return [(replica, content) for (replica, pane), content in self._held.get(digest, {}).items() if pane >= oldest]


class WindowDrift(msgspec.Struct, frozen=True):
    """The drift of a model's rows over the window, by the counts of all its replicas."""

    window_seconds: int
    replicas: int
    training_rows: int
    rows: int
    columns: dict[str, Drift]
    score: Drift | None


class DriftWindow:
    """The counts of one replica for one model, and the report over all replicas. Use it on the replica's event loop only.

    Args:
        digest: digest of the model components.
        distribution: distribution of the training rows.
        replica: a name that no other replica has.
        now: seconds since 1970, on a clock that all machines share.
    """

    def __init__(self, digest: str, distribution: Distribution, replica: str, now: Callable[[], float] = time.time) -> None:
        self._digest = digest
        self._distribution = distribution
        self._replica = replica
        self._now = now
        self._pane = 0
        self._counts: Counts | None = None  # stays None in a Classifier
        self._unsent: dict[int, bytes] = {}
        self._sent_rows = 0
        self._task: asyncio.Task[None] | None = None
        self._actor: Any = None

    def record(self, values: Array, probabilities: Array) -> None:
        """Counts scored rows: values of shape (rows, columns), probabilities of shape (rows, classes)."""
        if not len(values):
            return  # no rows have no shares
        pane = self._current_pane()
        if self._counts is None or pane != self._pane:
            self._keep_unsent()
            self._pane, self._counts, self._sent_rows = pane, Counts(self._distribution), 0
        self._counts.update(values, scores_of(probabilities))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._send_later())

    async def report(self) -> WindowDrift:
        """The drift of this model's rows over the window, from the counts of all replicas.

        Raises:
            ray.exceptions.RayError: the actor does not answer.
        """
        await self._send()
        actor = await self._reach()
        oldest = self._current_pane() - PANES + 1
        received: list[tuple[str, bytes]] = await actor.get.remote(self._digest, oldest)
        return await asyncio.to_thread(self._merge, received)

    def psi(self) -> dict[str, float]:
        """Population stability index by column, with the score as ``(score)``, of this replica's rows in the current pane."""
        if self._counts is None:
            return {}
        found = compare(self._distribution, self._counts)
        score = {} if found.score is None else {"(score)": found.score.psi}
        return {name: column.psi for name, column in found.columns.items()} | score

    def _merge(self, received: list[tuple[str, bytes]]) -> WindowDrift:
        merged = Counts(self._distribution)
        for _, content in received:
            merged.merge(Counts.from_bytes(self._distribution, content))
        found = compare(self._distribution, merged)
        return WindowDrift(
            window_seconds=PANE_S * PANES,
            replicas=len({replica for replica, _ in received}),
            training_rows=self._distribution.rows,
            rows=found.rows,
            columns={name: _without_cells_of_few(column) for name, column in found.columns.items()},
            score=found.score and _without_cells_of_few(found.score),
        )

    def _current_pane(self) -> int:
        return int(self._now() // PANE_S)

    def _keep_unsent(self) -> None:
        if self._counts is not None and self._counts.rows > self._sent_rows:
            self._unsent[self._pane] = self._counts.to_bytes()
            self._sent_rows = self._counts.rows

    async def _send_later(self) -> None:
        try:
            await asyncio.sleep(_SEND_INTERVAL_S)
            await self._send()
        except ray.exceptions.RayError as error:  # the next rows try again
            logger.warning("the counts for drift could not be sent: %s", error)
        finally:
            self._task = None

    async def _send(self) -> None:
        self._keep_unsent()
        if not self._unsent:
            return
        try:
            actor = await self._reach()
            for pane, content in list(self._unsent.items()):
                await actor.put.remote(self._digest, self._replica, pane, content)
                if self._unsent.get(pane) is content:
                    del self._unsent[pane]
        except ray.exceptions.RayActorError:
            self._actor = None  # lost: the next call makes another
            raise

    async def _reach(self) -> Any:
        if self._actor is None:
            # Off the event loop: these calls block on Ray.
            self._actor = await asyncio.to_thread(_find_or_make_actor)
        return self._actor


def _without_cells_of_few(found: BinsDrift) -> Drift:
    """The drift of a column, without the figures that would show the cells of single rows if there are few."""
    return Drift(found.psi, found.verdict, found.by_chance) if found.verdict == TOO_FEW_ROWS else found


def _find_or_make_actor() -> Any:
    options = {"name": _ACTOR, "namespace": _ACTOR, "lifetime": "detached", "get_if_exists": True, "num_cpus": 0}
    return ray.remote(Collector).options(**options, max_restarts=-1).remote()
