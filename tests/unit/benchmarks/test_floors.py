from __future__ import annotations

from pathlib import Path

from benchmarks.bodies import Bodies, RowObjects
from benchmarks.floors import FLOOR_ROWS, measure_floors
from serve_app.components.compiled import Components
from stress.dataset import Dataset


def test_the_whole_path_is_timed_for_each_size_and_more_rows_need_more_time(
    components: Components, dataset: Dataset, tmp_path: Path
) -> None:
    found = dict(measure_floors(components, Bodies(dataset, RowObjects(), tmp_path), 0.1))
    assert list(found) == [f"whole_path_{rows}" for rows in FLOOR_ROWS]
    assert 0 < found["whole_path_1"]["seconds"] < found["whole_path_10000"]["seconds"]
    assert all(figure["others_share"] >= 0 for figure in found.values())
