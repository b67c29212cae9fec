from __future__ import annotations

import numpy as np
import pytest

from serve_app.scoring.arrays import concatenate, count_rows, split

BATCH = [np.arange(6.0).reshape(3, 2), np.empty((0, 2)), np.ones((1, 2))]


def test_arrays_are_merged_in_order() -> None:
    assert concatenate(BATCH).tolist() == [[0, 1], [2, 3], [4, 5], [1, 1]]
    assert count_rows(BATCH) == 4


def test_a_single_array_is_not_copied() -> None:
    assert concatenate(BATCH[:1]) is BATCH[0]


@pytest.mark.parametrize("batch", [BATCH, BATCH[:1], BATCH[1:2], []])
def test_what_was_merged_is_split_into_the_same_rows(batch: list[np.ndarray]) -> None:
    merged = concatenate(batch) if batch else np.empty((0, 2))
    assert [part.tolist() for part in split(merged, batch)] == [array.tolist() for array in batch]
