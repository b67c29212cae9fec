from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.drifting import TRAINING, counted, drift_rows

from serve_app.scoring.drift_counts import Counts


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=5))
@settings(max_examples=15)
def test_what_replicas_counted_merges_into_what_one_would_have(sizes: list[int]) -> None:
    parts = [drift_rows(size, seed) for seed, size in enumerate(sizes)]
    merged = Counts(TRAINING)
    for part in parts:
        merged.merge(Counts.from_bytes(TRAINING, counted(TRAINING, part).to_bytes()))
    together = counted(TRAINING, *parts)
    assert merged.rows == together.rows == sum(sizes)
    for ours, theirs in zip(merged.shares(), together.shares(), strict=True):
        assert ours == pytest.approx(theirs, abs=0.025)
