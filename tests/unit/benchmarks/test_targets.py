from __future__ import annotations

import pytest

from benchmarks.scenarios import CALLS, IDLE, LOADS, MEMORY, MIXED, OWN_CALLS, START
from benchmarks.targets import TARGETS, Of, Target, evaluate

FIGURES = {
    "ours": {"load": {"requests_per_s": 300.0, "p50_ms": 2.0, "errors": 0.0}},
    "slow": {"load": {"requests_per_s": 50.0, "p50_ms": 9.0, "errors": 0.0}},
    "fast": {"load": {"requests_per_s": 100.0, "p50_ms": 4.0, "errors": 0.0}},
    "broken": {"load": {"requests_per_s": 9000.0, "p50_ms": 0.1, "errors": 1.0}},
}


def rate(*servers: str) -> Of:
    return Of(servers, "load", "requests_per_s")


@pytest.mark.parametrize(
    ("target", "value", "state", "stretch"),
    [
        (Target("", rate("ours"), "at least", 3.0, per=rate("slow", "fast")), 3.0, "met", None),
        (Target("", rate("ours"), "at least", 3.1, per=rate("slow", "fast")), 3.0, "short", None),
        (Target("", rate("ours"), "at least", 2.0, per=rate("fast"), stretch=4.0), 3.0, "met", "short"),
        (Target("", Of(("ours",), "load", "p50_ms"), "at most", 2.0, unit="ms", stretch=2.0), 2.0, "met", "met"),
        (
            Target("", Of(("ours",), "load", "p50_ms"), "at most", 0.4, per=Of(("slow", "fast"), "load", "p50_ms")),
            0.5,
            "short",
            None,
        ),
        (Target("", rate("ours"), "at least", 3.0, per=rate("absent")), None, "not measured", None),
        (Target("", rate("absent"), "at least", 3.0), None, "not measured", None),
        (Target("", Of(("ours",), "absent", "p50_ms"), "at most", 3.0, stretch=1.0), None, "not measured", None),
    ],
)
def test_a_target_compares_figures_of_one_run(target: Target, value: float | None, state: str, stretch: str | None) -> None:
    outcome = evaluate(FIGURES, target)
    assert outcome.value == (None if value is None else pytest.approx(value))
    assert (outcome.state, outcome.stretch_state) == (state, stretch)


def test_a_figure_with_errors_counts_for_nothing() -> None:
    assert evaluate(FIGURES, Target("", rate("broken"), "at least", 1.0)).state == "not measured"
    against = evaluate(FIGURES, Target("", rate("ours"), "at least", 1.0, per=rate("broken", "fast")))
    assert against.value == pytest.approx(3.0)


def test_every_target_asks_for_a_scenario_that_is_measured() -> None:
    scenarios = {one.name for one in (*LOADS, *CALLS, *OWN_CALLS)} | {START, IDLE, MIXED, MEMORY}
    scenarios |= {"cost_per_row", "whole_path_10000"}
    asked = {of.scenario for target in TARGETS for of in (target.figure, target.per) if of is not None}
    assert asked <= scenarios
