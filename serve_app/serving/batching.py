"""Merging the arrays of concurrent calls, weighed in rows, and splitting what comes back.

Owns how many rows and batches go together and when. Knows no model, no request and no Ray.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from serve_app.scoring.arrays import Array

__all__ = ["RowBatcher"]

Result = Array | Exception
BatchFunction = Callable[[list[Array]], Awaitable[Sequence[Result]]]
_MOST_TURNS = 64
"""Of the event loop, that a batch waits for more: endless traffic must not hold it up. A few milliseconds when each brings
a request."""


class RowBatcher:
    """A function of a batch of arrays as a function of one array.

    A batch is all that has arrived while as many batches as may run were running. When fewer run, the first to arrive waits
    as long as each turn of the event loop brings others, which a lone one does not notice. ``@serve.batch`` makes batches
    even while none may start, so that under load they stay tiny, and takes a tenth of the time of a request of one row.

    Args:
        score_batch: as many results as arrays; one that is an exception fails its array, one that is raised all of the batch.
        max_rows: the most rows of a batch, and of one array.
        max_concurrent_batches: how many run at once.
    """

    def __init__(self, score_batch: BatchFunction, *, max_rows: int, max_concurrent_batches: int) -> None:
        self._score_batch = score_batch
        self._max_rows = max_rows
        self._max_running = max_concurrent_batches
        self._running = 0
        self._tasks: set[asyncio.Task[None]] = set()  # the event loop itself holds them only weakly
        self._waiting: deque[tuple[Array, asyncio.Future[Array]]] = deque()

    async def score(self, array: Array) -> Array:
        """The result of one array, whatever it was merged with.

        Raises:
            Exception: whatever ``score_batch`` raised, or gave back for this array.
        """
        loop = asyncio.get_running_loop()
        result: asyncio.Future[Array] = loop.create_future()
        self._waiting.append((array, result))
        if self._running < self._max_running:
            self._running += 1
            task = loop.create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await result

    async def _run(self) -> None:
        """Batch after batch, until nobody waits."""
        await self._gather()
        while self._waiting:
            arrays, results = self._take()
            scored: Sequence[Result] = []
            try:
                if arrays:  # not all of them have been given up
                    scored = await self._score_batch(arrays)
            except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
                scored = [error] * len(arrays)
            for result, found in zip(results, scored, strict=True):
                if result.done():  # its request may have been given up meanwhile
                    continue
                if isinstance(found, Exception):
                    result.set_exception(found)
                else:
                    result.set_result(found)
            await self._gather()
        # Not in a callback of the task, which is called a turn after its end: who comes in between would wait forever.
        self._running -= 1

    async def _gather(self) -> None:
        """Returns when a turn of the event loop has brought nobody new."""
        for _ in range(_MOST_TURNS):
            waiting = len(self._waiting)
            await asyncio.sleep(0)
            if len(self._waiting) == waiting:
                return

    def _take(self) -> tuple[list[Array], list[asyncio.Future[Array]]]:
        """The next batch: the first that waits, and those behind it as long as there is room; not what was given up."""
        arrays: list[Array] = []
        results: list[asyncio.Future[Array]] = []
        rows = 0
        while self._waiting and (not arrays or rows + len(self._waiting[0][0]) <= self._max_rows):
            array, result = self._waiting.popleft()
            if result.done():
                continue
            arrays.append(array)
            results.append(result)
            rows += len(array)
        return arrays, results
