from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from serve_app.errors import NotScorableError
from serve_app.scoring.arrays import concatenate, count_rows, split
from serve_app.serving.batching import RowBatcher, first_failing_row, score_by_halves

Array = NDArray[np.float64]


def column(*values: float) -> Array:
    return np.array(values).reshape(-1, 1)


class Doubler:
    """A batch function that keeps what it was given, and takes as long as it is told to."""

    def __init__(self, turns: int = 3) -> None:
        self.batches: list[int] = []
        self.running = 0
        self.most_running = 0
        self.failure: Exception | None = None
        self._turns = turns

    async def __call__(self, batch: list[Array]) -> Sequence[Array]:
        self.batches.append(count_rows(batch))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        for _ in range(self._turns):
            await asyncio.sleep(0)
        self.running -= 1
        if self.failure is not None:
            raise self.failure
        return split(2 * concatenate(batch), batch)


@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=40),
    late=st.lists(st.integers(0, 9), min_size=40, max_size=40),
    max_concurrent_batches=st.integers(1, 3),
)
def test_each_array_gets_its_own_result_and_no_batch_is_too_large(
    sizes: list[int], late: list[int], max_concurrent_batches: int
) -> None:
    double = Doubler()
    batcher = RowBatcher(double, max_rows=7, max_concurrent_batches=max_concurrent_batches)
    starts = np.cumsum([0, *sizes[:-1]])
    arrays = [np.arange(start, start + size, dtype=float)[:, None] for start, size in zip(starts, sizes, strict=True)]

    async def ask(array: Array, turns: int) -> Array:
        for _ in range(turns):
            await asyncio.sleep(0)
        return await batcher.score(array)

    async def ask_all() -> list[Array]:
        return await asyncio.gather(*map(ask, arrays, late))

    for array, result in zip(arrays, asyncio.run(ask_all()), strict=True):
        assert np.array_equal(result, 2 * array)
    assert sum(double.batches) == sum(sizes)
    assert max(double.batches) <= 7
    assert double.most_running <= max_concurrent_batches


@pytest.mark.parametrize("turns", range(20))
def test_an_array_that_arrives_just_as_a_batch_ends_is_scored(turns: int) -> None:
    batcher = RowBatcher(Doubler(), max_rows=100, max_concurrent_batches=1)

    async def ask() -> Array:
        first = asyncio.create_task(batcher.score(column(1)))
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(60):
            second = await batcher.score(column(2))
        await first
        return second

    assert asyncio.run(ask()).tolist() == [[4.0]]


def test_arrays_that_arrive_while_batches_run_are_the_next_batch() -> None:
    double = Doubler(turns=10)
    batcher = RowBatcher(double, max_rows=100, max_concurrent_batches=1)

    async def ask() -> None:
        first = asyncio.create_task(batcher.score(column(0)))
        for _ in range(5):  # the first has left; the others come one by one
            await asyncio.sleep(0)
        others = []
        for value in range(1, 4):
            others.append(asyncio.create_task(batcher.score(column(value))))
            await asyncio.sleep(0)
        await asyncio.gather(first, *others)

    asyncio.run(ask())
    assert double.batches == [1, 3]


def test_a_lone_array_leaves_within_a_few_turns_of_the_event_loop() -> None:
    double = Doubler()
    batcher = RowBatcher(double, max_rows=100, max_concurrent_batches=2)

    async def ask() -> int:
        task = asyncio.create_task(batcher.score(column(1)))
        turns = 0
        while not double.batches:
            await asyncio.sleep(0)
            turns += 1
        await task
        return turns

    assert asyncio.run(ask()) <= 4


def test_endless_traffic_does_not_hold_a_batch_up() -> None:
    double = Doubler()
    batcher = RowBatcher(double, max_rows=10_000, max_concurrent_batches=1)

    async def flood() -> int:
        tasks = []
        while not double.batches:
            tasks.append(asyncio.create_task(batcher.score(column(1))))
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        return double.batches[0]

    assert 1 < asyncio.run(flood()) < 100


def test_a_failure_reaches_all_of_its_batch_and_no_other() -> None:
    double = Doubler()
    batcher = RowBatcher(double, max_rows=100, max_concurrent_batches=1)

    async def ask() -> tuple[list[Array | BaseException], Array]:
        double.failure = ConnectionError("lost")
        failed = await asyncio.gather(batcher.score(column(1)), batcher.score(column(2)), return_exceptions=True)
        double.failure = None
        return list(failed), await batcher.score(column(3))

    failed, answered = asyncio.run(ask())
    assert [str(error) for error in failed] == ["lost", "lost"]
    assert answered.tolist() == [[6.0]]


def test_a_caller_that_gives_up_does_not_affect_the_others() -> None:
    double = Doubler()
    batcher = RowBatcher(double, max_rows=100, max_concurrent_batches=1)

    async def ask() -> Array:
        impatient, patient = (asyncio.create_task(batcher.score(column(value))) for value in (1, 2))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        impatient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await impatient
        return await patient

    assert asyncio.run(ask()).tolist() == [[4.0]]


def test_an_array_whose_caller_gave_up_before_its_batch_began_is_not_scored() -> None:
    double = Doubler(turns=10)
    batcher = RowBatcher(double, max_rows=100, max_concurrent_batches=1)

    async def ask(values: list[float], given_up: list[int]) -> list[Array]:
        running = asyncio.create_task(batcher.score(column(0)))
        for _ in range(5):  # its batch has begun, the others wait
            await asyncio.sleep(0)
        waiting = [asyncio.create_task(batcher.score(column(value))) for value in values]
        await asyncio.sleep(0)
        for place in given_up:
            waiting[place].cancel()
        await running
        patient = [task for place, task in enumerate(waiting) if place not in given_up]
        answers = await asyncio.gather(*patient)
        await asyncio.gather(*waiting, return_exceptions=True)
        return answers

    async def ask_thrice() -> list[list[Array]]:
        return [await ask([1, 2, 3], [0, 2]), await ask([1, 2], [0, 1]), await ask([7], [])]

    (answer,), nobody, (last,) = asyncio.run(ask_thrice())
    assert answer.tolist() == [[4.0]]
    assert nobody == []
    assert last.tolist() == [[14.0]]
    assert double.batches == [1, 1, 1, 1, 1]  # each first one, the second, and the last


def test_an_array_that_fails_alone_is_given_its_own_error_among_the_results() -> None:
    async def refuse_negatives(batch: list[Array]) -> Sequence[Array | Exception]:
        await asyncio.sleep(0)
        return [ValueError("negative") if (array < 0).any() else array for array in batch]

    batcher = RowBatcher(refuse_negatives, max_rows=100, max_concurrent_batches=1)

    async def ask() -> list[Array | str]:
        tasks = [asyncio.create_task(batcher.score(column(value))) for value in (1, -2, 3)]
        await asyncio.wait(tasks)
        return [task.result() if task.exception() is None else str(task.exception()) for task in tasks]

    first, refused, last = asyncio.run(ask())
    assert refused == "negative"
    assert [np.asarray(answer).tolist() for answer in (first, last)] == [[[1.0]], [[3.0]]]


def test_one_array_alone_is_not_copied() -> None:
    array = column(1, 2)
    assert concatenate([array]) is array
    assert np.shares_memory(split(array, [array])[0], array)


def test_a_batch_that_fails_is_halved_until_only_the_bad_array_fails() -> None:
    calls: list[int] = []

    async def refuse_negatives(batch: list[Array]) -> Sequence[Array]:
        calls.append(len(batch))
        await asyncio.sleep(0)
        if any((array < 0).any() for array in batch):
            raise NotScorableError("negative")
        return batch

    batch = [column(-1 if place == 37 else 1) for place in range(100)]
    results = asyncio.run(score_by_halves(batch, refuse_negatives))
    assert [place for place, result in enumerate(results) if isinstance(result, NotScorableError)] == [37]
    assert all(result is batch[place] for place, result in enumerate(results) if place != 37)
    assert len(calls) <= 15


def test_a_failure_that_no_array_has_caused_is_raised_at_once() -> None:
    calls: list[int] = []

    async def fail(batch: list[Array]) -> Sequence[Array]:
        calls.append(len(batch))
        await asyncio.sleep(0)
        raise MemoryError

    with pytest.raises(MemoryError):
        asyncio.run(score_by_halves([column(1)] * 4, fail))
    assert calls == [4]


@given(size=st.integers(1, 300), failing=st.sets(st.integers(0, 299)), max_rows=st.integers(1, 64))
def test_the_first_row_that_fails_is_found_in_few_calls(size: int, failing: set[int], max_rows: int) -> None:
    values = column(*range(size))
    calls = []

    async def score(rows: Array) -> Array:
        calls.append(len(rows))
        if failing & set(rows.ravel().tolist()):
            raise NotScorableError("it is one of these")
        return rows

    found = asyncio.run(first_failing_row(values, score, max_rows=max_rows))
    in_reach = [row for row in failing if row < size]
    # An array of one row is known to have failed; of more rows, none may fail by itself.
    assert found == (min(in_reach) if in_reach else 0 if size == 1 else None)
    assert max(calls, default=0) <= max_rows
    assert len(calls) <= size / max_rows + 10


def test_a_failure_of_the_service_is_not_taken_for_a_row() -> None:
    async def score(rows: Array) -> Array:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        asyncio.run(first_failing_row(column(1, 2, 3), score, max_rows=10))
