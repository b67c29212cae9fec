"""Merging the arrays of concurrent calls with ``@serve.batch``, weighed in rows, and splitting what comes back.

Owns how many rows and batches go together and when. Knows no model and no request.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from ray import serve

from serve_app.config import BatchSettings

__all__ = ["RowBatcher", "concatenate", "split"]

Array = NDArray[np.float64]
BatchFunction = Callable[[list[Array]], Awaitable[Sequence[Array | Exception]]]


class RowBatcher:
    """A function of a batch of arrays as a function of one array.

    ``@serve.batch`` makes a batch of whatever has arrived even while as many batches as may run are running; those that
    then wait for their turn are formed already, and stay tiny. So an array waits here, *before* it is handed over, as
    long as that many are running: the next batch is all that has arrived meanwhile. When nothing runs, nobody waits.

    Args:
        score_batch: as many results as arrays; a failure is a value among them, for an exception would fail all.
        settings: how much goes together.
        max_rows: the most rows of a batch, and of one array.
    """

    def __init__(self, score_batch: BatchFunction, settings: BatchSettings, max_rows: int) -> None:
        self._score_batch = score_batch
        self._max_running = settings.max_concurrent_batches
        self._running = 0
        self._finished = asyncio.Event()
        self._merged = serve.batch(
            max_batch_size=max_rows,
            batch_wait_timeout_s=settings.wait_timeout_s,
            max_concurrent_batches=settings.max_concurrent_batches,
            batch_size_fn=_count_rows,
        )(_with_signature(self._run))

    async def score(self, array: Array) -> Array:
        """The result of one array, whatever it was merged with.

        Raises:
            Exception: the failure that ``score_batch`` returned for it.
        """
        while self._running >= self._max_running:
            self._finished.clear()
            await self._finished.wait()
        result: Array | Exception = await self._merged(array)
        if isinstance(result, Exception):
            raise result
        return result

    async def check_health(self) -> None:
        """Raises RuntimeError when the batching task, which nothing revives, has ended."""
        if not await self._merged._is_batching_task_alive():  # noqa: SLF001 - the only way to see it
            raise RuntimeError("the batching task has ended")

    async def _run(self, batch: list[Array]) -> Sequence[Array | Exception]:
        self._running += 1
        try:
            return await self._score_batch(batch)
        finally:
            self._running -= 1
            self._finished.set()


def _with_signature(run: BatchFunction) -> BatchFunction:
    """``run`` as a function that carries its signature: Ray asks for it on every call, which is slow for a method."""

    async def function(batch: list[Array]) -> Sequence[Array | Exception]:
        return await run(batch)

    function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return function


def concatenate(arrays: Sequence[Array]) -> Array:
    """The rows of all arrays; one array alone is not copied."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def split(merged: Array, batch: Sequence[Array]) -> list[Array]:
    """``merged`` cut into as many rows as each array of ``batch`` has."""
    if len(batch) == 1:
        return [merged]
    edges = np.cumsum([len(array) for array in batch[:-1]])
    return np.split(merged, edges)


def _count_rows(batch: list[Array]) -> int:
    return sum(map(len, batch))  # cannot fail: a batch_size_fn that raises would end the batching task
