"""Merges the arrays of concurrent calls into batches, counted in rows, and splits the results.

Owns how many rows and batches go together and when, and what happens to a batch that fails. Knows no model, no request and no
Ray.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from serve_app.errors import NotScorableError
from serve_app.scoring.arrays import Array

__all__ = ["BatchFunction", "Result", "RowBatcher", "first_failing_row", "score_by_halves"]

Result = Array | Exception
"""The result of one array of a batch: an error is a value, so that it fails no other array."""
BatchFunction = Callable[[list[Array]], Awaitable[Sequence[Result]]]
_MAX_TURNS = 64
"""Most event-loop turns a batch waits for more rows, a few milliseconds: endless traffic must not delay it for ever."""


class RowBatcher:
    """Turns a function of a batch of arrays into a function of one array.

    While as many batches run as may run, arrays collect; together they are the next batch. While fewer run, the first array
    waits as long as each turn of the event loop brings another, which a lone caller does not notice. ``@serve.batch`` is no
    substitute: it forms batches even while none may start, so that they stay tiny under load, and it costs a tenth of a
    one-row request.

    Args:
        score_batch: returns one result per array; an error among them fails its array, an exception fails the whole batch.
        max_rows: the most rows of one batch, and of one array.
        max_concurrent_batches: the most batches that run at once.
    """

    def __init__(self, score_batch: BatchFunction, *, max_rows: int, max_concurrent_batches: int) -> None:
        self._score_batch = score_batch
        self._max_rows = max_rows
        self._max_running = max_concurrent_batches
        self._running = 0
        self._tasks: set[asyncio.Task[None]] = set()  # the event loop holds only weak references
        self._waiting: deque[tuple[Array, asyncio.Future[Array]]] = deque()

    async def score(self, array: Array) -> Array:
        """The result of one array, whatever it is merged with.

        Raises:
            Exception: what ``score_batch`` raised, or returned for this array.
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
        """Scores batches until nothing waits."""
        await self._gather()
        while self._waiting:
            arrays, results = self._take()
            scored: Sequence[Result] = []
            try:
                if arrays:  # empty if every caller has given up
                    scored = await self._score_batch(arrays)
            except Exception as error:  # noqa: BLE001 - each caller raises it
                scored = [error] * len(arrays)
            for result, found in zip(results, scored, strict=True):
                if result.done():  # its caller has given up meanwhile
                    continue
                if isinstance(found, Exception):
                    result.set_exception(found)
                else:
                    result.set_result(found)
            await self._gather()
        # Not in a callback of the task: that runs a turn later, and an array that arrived in between would wait for ever.
        self._running -= 1

    async def _gather(self) -> None:
        """Returns once a turn of the event loop has brought no new array."""
        for _ in range(_MAX_TURNS):
            waiting = len(self._waiting)
            await asyncio.sleep(0)
            if len(self._waiting) == waiting:
                return

    def _take(self) -> tuple[list[Array], list[asyncio.Future[Array]]]:
        """The next batch: the waiting arrays in order, as many as fit, without those whose callers have given up."""
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


async def score_by_halves(
    batch: list[Array], score_merged: BatchFunction, *, halve_on: type[Exception] = NotScorableError
) -> list[Result]:
    """The result of each array, so that one that cannot be scored fails alone.

    A batch that fails is scored again in two halves, down to single arrays: one bad array among a hundred costs fourteen calls.

    Args:
        batch: arrays of any number of rows.
        score_merged: scores the arrays in one call; one result per array.
        halve_on: the exceptions of ``score_merged`` that one array may have caused. Any other is raised.
    """
    try:
        return [*await score_merged(batch)]
    except halve_on as error:
        if len(batch) == 1:
            return [error]
    middle = len(batch) // 2
    halves = batch[:middle], batch[middle:]
    return [result for half in halves for result in await score_by_halves(half, score_merged, halve_on=halve_on)]


async def first_failing_row(
    values: Array, score: Callable[[Array], Awaitable[Array]], *, max_rows: int, fails_by: type[Exception] = NotScorableError
) -> int | None:
    """The position of the first row that fails by itself, in an array that fails as a whole; None if no such row is found.

    The search halves the array: one row among a thousand costs ten calls, which score two thousand rows in all.

    Args:
        values: shape (rows, columns), of any number of rows.
        score: scores some rows.
        max_rows: the most rows of one call.
        fails_by: the exception by which it fails. Any other is raised.
    """

    async def fails(start: int, stop: int) -> bool:
        try:
            await score(values[start:stop])
        except fails_by:
            return True
        return False

    start, stop, is_known = 0, len(values), True
    while stop - start > 1:
        middle = start + min((stop - start) // 2, max_rows)
        is_known = await fails(start, middle)
        start, stop = (start, middle) if is_known else (middle, stop)
    return start if is_known or await fails(start, stop) else None
