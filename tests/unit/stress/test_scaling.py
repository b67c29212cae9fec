from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from support.load_records import write_calls

from stress.scaling import in_flight, summary


def test_a_deployments_replicas_are_summarised_in_one_line() -> None:
    counts = pd.Series([1, 1, 2, 3, 3, 1], name="Preprocessor")
    assert summary(counts) == "Preprocessor replicas: 1 before, at most 3, 1 at the end; 3 changes"


def test_a_call_is_in_flight_from_when_it_was_due_to_its_answer(tmp_path: Path) -> None:
    records = write_calls(tmp_path / "requests.csv", [(1.0, "one row", 1, 500.0, ""), (1.25, "one row", 1, 1000.0, "lost")])
    assert in_flight(records, np.array([0.9, 1.1, 1.3, 1.6, 2.5])).tolist() == [0, 1, 2, 1, 0]
