from __future__ import annotations

from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.own_tables import write_csv

from serve_app.errors import TableError
from serve_app.offline.pieces import file_system, plan
from serve_app.offline.run_folder import Run, claim, run_of


def write(path: Path, table: dict[str, list[str]]) -> Path:
    if path.suffix == ".csv":
        return write_csv(path, table)
    pq.write_table(pa.table(table), path)
    return path


def test_a_folder_of_other_files_or_another_run_is_left_alone(tmp_path: Path) -> None:
    system, folder = file_system(str(tmp_path))
    (tmp_path / "mine.txt").write_text("mine")
    run = Run("digest", "sha", "csv", ())
    with pytest.raises(TableError, match="holds something other than answers"):
        claim(system, folder, "out", run)
    (tmp_path / "mine.txt").unlink()
    claim(system, folder, "out", run)
    claim(system, folder, "out", run)
    with pytest.raises(TableError, match="another run"):
        claim(system, folder, "out", msgspec.structs.replace(run, format="parquet"))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_of_the_same_size_that_took_the_place_of_another_makes_another_run(tmp_path: Path, suffix: str) -> None:
    source = write(tmp_path / f"rows{suffix}", {"number": ["1", "2", "3"]})
    system, folder = file_system(str(tmp_path / "out"))
    (tmp_path / "out").mkdir()
    claim(system, folder, "out", run_of("digest", plan(str(source)), "csv", ()))
    claim(system, folder, "out", run_of("digest", plan(str(source)), "csv", ()))
    write(source, {"number": ["1", "2", "4"]})
    with pytest.raises(TableError, match="a file has changed since"):
        claim(system, folder, "out", run_of("digest", plan(str(source)), "csv", ()))
