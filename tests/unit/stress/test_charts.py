from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from support.load_records import hundred_calls

from stress.charts import draw_run, draw_scaling
from stress.records import make_timeline
from stress.scenarios import SCENARIOS


@pytest.mark.parametrize("rate", [0.0, 500.0])
def test_the_same_records_make_the_same_chart(tmp_path: Path, rate: float) -> None:
    timeline = make_timeline(hundred_calls(tmp_path / "requests.csv"), 2.0)
    for name in ("one.svg", "two.svg"):
        draw_run(timeline, SCENARIOS["spike"].lasting(2), rate=rate, path=tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert b"<svg" in (tmp_path / "one.svg").read_bytes()


def test_the_chart_of_replicas_is_drawn_from_records_and_samples(tmp_path: Path) -> None:
    replicas = pd.DataFrame({"Preprocessor": [1, 2, 1], "Classifier": [1, 1, 1]}, index=[0.0, 1.0, 2.5])
    for name in ("one.svg", "two.svg"):
        draw_scaling(hundred_calls(tmp_path / "requests.csv"), replicas, title="replicas", path=tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
