from __future__ import annotations

import numpy as np

from serve_app.training.leaks import leaking_columns


def test_a_column_that_knows_the_target_is_found_and_a_good_one_is_not() -> None:
    random = np.random.default_rng(3)
    classes = random.integers(0, 3, 900)
    values = np.column_stack(
        [
            (classes + 1) % 3 * 10 + random.normal(0, 0.1, 900),  # in another order than the classes
            np.where(random.random(900) < 0.2, np.nan, classes + random.normal(0, 0.7, 900)),
            np.full(900, np.nan),
        ]
    )
    found = leaking_columns(["leak", "good", "empty"], values, classes, seed=1)
    assert list(found) == ["leak"]
    assert found["leak"] > 0.99
