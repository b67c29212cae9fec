from __future__ import annotations

from pathlib import Path

import numpy as np
from support.own_tables import mixed_table, write_csv

from serve_app.training.importance import importances
from serve_app.training.train import train


def test_the_most_important_column_is_the_one_that_tells_most(tmp_path: Path) -> None:
    table = mixed_table(1500)
    random = np.random.default_rng(0)
    table["bought"] = ["yes" if float(cell or 0) + random.normal(0, 0.2) > 0 else "no" for cell in table["number"]]
    _, found = train(write_csv(tmp_path / "table.csv", table), target="bought", method="logit")
    lost = importances(found.evidence)
    assert next(iter(lost)) == "number"
    assert lost["number"] > 0.3
    assert abs(lost["place"]) < 0.05
