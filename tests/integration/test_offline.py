"""``python -m serve_app score`` on a Ray of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.own_tables import mixed_table, rows_of, write_csv
from support.scoring import score

from serve_app.components.compiled import Components
from serve_app.components.saving import save_components
from serve_app.config import PROJECT_ROOT
from serve_app.offline.pieces import plan
from serve_app.training.train import train

MEMORY_BYTES = 64 * 1024 * 1024

SCORE_WITH_LITTLE_MEMORY = """
import re, resource, sys
from pathlib import Path
from serve_app.components.loading import load_components
from serve_app.offline.score_piece import score_piece
from serve_app.offline.pieces import plan

components, small, large, out, memory = sys.argv[1:]
loaded = load_components(Path(components))
def score(source, folder):
    return [score_piece(piece, source, folder, loaded, form="parquet", keep=()) for piece in plan(source)]
score(small, out + "/small")
used = int(re.search(r"VmData:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + int(memory), used + int(memory)))
print(sum(result.scored for result in score(large, out + "/large")))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Components]:
    folder = tmp_path_factory.mktemp("model")
    draft, _ = train(write_csv(folder / "table.csv", mixed_table()), target="bought", method="logit")
    return folder / "components", save_components(folder / "components", draft)


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serve_app", "score", *map(str, arguments)]
    return subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=200, check=False)


def test_files_are_scored_as_requests_are_and_a_run_goes_on_where_it_was(
    tmp_path: Path, model: tuple[Path, Components]
) -> None:
    folder, components = model
    table = mixed_table(3000, seed=5)
    (tmp_path / "in").mkdir()
    rows: list[dict[str, Any]] = [{**row} for row in rows_of(table)]
    write_csv(tmp_path / "in" / "a.csv", {name: cells[:2000] for name, cells in table.items()})
    bad = {**rows[2000], "number": "much"}
    lines = [json.dumps(row) for row in (*rows[2000:], bad)]
    (tmp_path / "in" / "b.jsonl").write_text("\n".join(lines))

    first = run(tmp_path / "in", "--output", tmp_path / "out", "--components", folder, "--keep", "customer")
    assert first.returncode == 0, first.stderr
    assert f"{tmp_path}/out: 3,001 rows in = 3,000 scored + 1 refused" in first.stdout
    answers = [row for path in sorted((tmp_path / "out").glob("part-*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert [row["customer"] for row in answers] == table["customer"]
    expected = score(components, rows)[:, 1]
    assert np.array_equal([row["probability_positiveclass"] for row in answers], expected)
    (refused,) = [
        json.loads(line) for path in (tmp_path / "out" / "_refused").iterdir() for line in path.read_text().splitlines()
    ]
    assert (Path(refused["file"]).name, refused["row"], refused["problems"][0]["code"]) == ("b.jsonl", 1000, "not_a_number")

    # As if it had been stopped before the second piece was done.
    assert len(plan(str(tmp_path / "in"))) == 2
    kept, lost = tmp_path / "out" / "part-000000.parquet", tmp_path / "out" / "part-000001.parquet"
    before, content = kept.stat().st_mtime_ns, pq.read_table(lost)
    lost.unlink()
    (tmp_path / "out" / "_done" / "000001.json").unlink()
    second = run(tmp_path / "in", "--output", tmp_path / "out", "--components", folder, "--keep", "customer")
    assert second.returncode == 0, second.stderr
    assert "3,001 rows in = 3,000 scored + 1 refused; 1 of 2 pieces had been done before" in second.stdout
    assert kept.stat().st_mtime_ns == before
    assert pq.read_table(lost).equals(content)


def test_the_memory_that_scoring_takes_piece_by_piece_in_one_process_does_not_grow_with_the_file(
    tmp_path: Path, model: tuple[Path, Components]
) -> None:
    """Of what a worker does, and of cutting; not of Ray itself, nor of Ray Data, which hold names of pieces only."""
    folder, _ = model
    table = mixed_table(600)
    small = write_csv(tmp_path / "small.csv", {**table, "note": ["x" * 5000] * 600})
    header, *rows = small.read_text().splitlines(keepends=True)
    large = tmp_path / "large.csv"
    with large.open("w") as file:
        file.write(header)
        for _ in range(100):
            file.writelines(rows)
    assert large.stat().st_size > 4 * MEMORY_BYTES
    command = [sys.executable, "-c", SCORE_WITH_LITTLE_MEMORY, folder, small, large, tmp_path / "out", str(MEMORY_BYTES)]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=200, check=False)
    assert done.stdout == "60000\n", done.stderr
