from __future__ import annotations

import pytest

from serve_app.config import PROJECT_ROOT
from stress.calls import KINDS
from stress.scenarios import SCENARIOS, Scenario


def test_there_is_a_scenario_for_each_question() -> None:
    assert list(SCENARIOS) == ["single", "random-batch", "whole-file", "mixed", "ramp", "bad-input", "spike", "waves", "soak"]


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS.keys())
def test_a_scenario_makes_calls_that_there_are_from_its_first_second_to_its_last(scenario: Scenario) -> None:
    assert set(scenario.mix) <= set(KINDS)
    users = [scenario.users_at(second) for second in range(int(scenario.seconds))]
    assert all(count and count > 0 for count in users)
    assert scenario.users_at(scenario.seconds) is None


def test_every_kind_of_call_is_part_of_a_scenario() -> None:
    assert {kind for scenario in SCENARIOS.values() for kind in scenario.mix} == set(KINDS)


def test_a_scenario_can_be_squeezed_and_keeps_its_shape() -> None:
    ramp = SCENARIOS["ramp"].lasting(7)
    assert ramp.seconds == pytest.approx(7)
    assert [ramp.users_at(second + 0.5) for second in range(7)] == [1, 2, 4, 8, 16, 32, 64]
    assert ramp.mix == SCENARIOS["ramp"].mix


def test_the_documentation_states_every_scenarios_mix_and_shape() -> None:
    text = (PROJECT_ROOT / "docs" / "load-tests.md").read_text(encoding="utf-8")
    for scenario in SCENARIOS.values():
        assert f"| `{scenario.name}` | {scenario.seconds:.0f} s | {scenario.title} |" in text
