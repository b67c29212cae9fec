from __future__ import annotations

from pathlib import Path

from benchmarks.chart import draw_chart
from benchmarks.results import load_results, summarise_run
from benchmarks.scenarios import LOADS
from serve_app.config import PROJECT_ROOT


def test_the_same_results_make_the_same_chart(tmp_path: Path) -> None:
    load = {"requests_per_s": 1234.0, "errors": 0.0}
    titles = {"rival": "a rival", "serve_app": "this service", "failed": "a failure"}
    rounds = {name: {LOADS[1].name: [load]} for name in ("rival", "serve_app")}
    results = summarise_run(seconds=5, round_count=1, titles=titles, failures={"failed": "why"}, rounds=rounds)
    for name in ("one.svg", "two.svg"):
        draw_chart(results, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_the_committed_chart_shows_the_committed_run(tmp_path: Path) -> None:
    draw_chart(load_results(PROJECT_ROOT / "benchmarks" / "results.json"), tmp_path / "benchmark.svg")
    assert (tmp_path / "benchmark.svg").read_bytes() == (PROJECT_ROOT / "docs" / "benchmark.svg").read_bytes()
