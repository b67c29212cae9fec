from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.results import cost_per_row_step, load_results, median_figure, outcomes, save_results, summarise_run
from stress.errors import StressError


def test_a_figure_is_the_median_of_its_rounds_and_the_sum_of_its_errors() -> None:
    rounds = [{"p50_ms": value, "errors": errors} for value, errors in ((3.0, 0), (9.0, 1), (4.0, 0))]
    assert median_figure(rounds) == {"p50_ms": 4.0, "errors": 1}


def calls(**us_per_row: float) -> dict[str, dict[str, float]]:
    return {name: {"us_per_row": cost} for name, cost in us_per_row.items()}


def test_the_cost_per_row_is_followed_from_small_calls_to_large_ones() -> None:
    assert cost_per_row_step(calls(call_1000=20.0, call_100=80.0, call_10000=22.0)) == pytest.approx(1.1)
    assert cost_per_row_step(calls(call_100=80.0)) is None
    assert cost_per_row_step({}) is None


def test_rounds_become_figures_per_server_and_scenario() -> None:
    rounds = {"a": {"start": [{"seconds": 1.0}, {"seconds": 3.0}]}, "b": {"idle": [{"memory_mb": 5.0}]}}
    results = summarise_run(seconds=5, round_count=2, titles={"a": "A", "b": "B"}, failures={}, rounds=rounds)
    assert results.figures == {"a": {"start": {"seconds": 2.0}}, "b": {"idle": {"memory_mb": 5.0}}}


def test_results_survive_the_file(tmp_path: Path) -> None:
    load = {"requests_per_s": 1234.56789, "errors": 0.0}
    results = summarise_run(
        seconds=5, round_count=1, titles={"serve_app": "this service"}, failures={}, rounds={"serve_app": {"start": [load]}}
    )
    save_results(results, tmp_path / "results.json")
    assert load_results(tmp_path / "results.json") == results
    assert results.figures["serve_app"]["start"]["requests_per_s"] == 1234.6
    document = json.loads((tmp_path / "results.json").read_bytes())
    assert [target["name"] for target in document["targets"]] == [outcome.target.name for outcome in outcomes(results)]


def test_no_results_are_an_error_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(StressError, match="cannot be read"):
        load_results(tmp_path / "absent.json")
