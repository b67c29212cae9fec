"""The scenarios: which calls in which shares, by how many users, for how long. Pure.

A user makes a call, waits for its answer, pauses and makes the next call, so that a slow service gets fewer calls.
``capacity.py`` measures with calls that do not wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from stress.calls import BATCH, MALFORMED, ONE_ROW, REFUSED, REPORTED, WHOLE_FILE

__all__ = ["SCENARIOS", "Scenario", "Stage"]


@dataclass(frozen=True)
class Stage:
    """A number of users for some seconds."""

    seconds: float
    users: int


@dataclass(frozen=True)
class Scenario:
    """``mix`` is the weight of each kind of call; each user pauses ``pause_s`` between two calls."""

    name: str
    title: str
    mix: Mapping[str, float]
    stages: tuple[Stage, ...]
    batch_rows: tuple[int, int] = (1, 100)
    pause_s: float = 0.0

    @property
    def seconds(self) -> float:
        """The duration of all stages."""
        return sum(stage.seconds for stage in self.stages)

    def lasting(self, seconds: float | None) -> Scenario:
        """The same shape, stretched or squeezed to ``seconds``; unchanged for None or 0."""
        factor = seconds / self.seconds if seconds else 1
        return replace(self, stages=tuple(Stage(stage.seconds * factor, stage.users) for stage in self.stages))

    def users_at(self, elapsed_s: float) -> int | None:
        """The number of users at a time; None after the end."""
        for stage in self.stages:
            elapsed_s -= stage.seconds
            if elapsed_s < 0:
                return stage.users
        return None


_ONE_ROW = {ONE_ROW: 1}
_MIXED = {ONE_ROW: 945, BATCH: 54, WHOLE_FILE: 1}
"""Per 1,000 calls; counted in rows this is 945, about 2,700, and 10,000."""

_RAMP = tuple(Stage(8, 2**step) for step in range(7))
_SPIKE = (Stage(15, 4), Stage(10, 128), Stage(15, 4))
_WAVES = (Stage(10, 4), Stage(10, 32), Stage(40, 160), Stage(10, 32), Stage(90, 4))

_ALL = (
    Scenario("single", "one row per call, 16 users", _ONE_ROW, (Stage(30, 16),)),
    Scenario("random-batch", "1 to 100 random rows per call, 8 users", {BATCH: 1}, (Stage(30, 8),)),
    Scenario("whole-file", "all of data/test.json in one call, 1 user", {WHOLE_FILE: 1}, (Stage(30, 1),)),
    Scenario("mixed", "of 1,000 calls 945 of one row, 54 batches, 1 whole file; 16 users", _MIXED, (Stage(60, 16),)),
    Scenario("ramp", "one row per call; 1, 2, 4, 8, 16, 32, 64 users", _ONE_ROW, _RAMP),
    Scenario(
        "bad-input",
        "of 100 calls 80 of one row, 5 batches, 10 with a bad row refused, 3 with a bad row reported, 2 malformed; 16 users",
        {ONE_ROW: 80, BATCH: 5, REFUSED: 10, REPORTED: 3, MALFORMED: 2},
        (Stage(30, 16),),
    ),
    Scenario("spike", "one row per call; 4 users, 128 for a quarter of the time, then 4", _ONE_ROW, _SPIKE),
    Scenario(
        "waves", "one row per call; 4, 32, 160, 32, 4 users; the last stage is long enough to see replicas go", _ONE_ROW, _WAVES
    ),
    Scenario("soak", "the mix of mixed; 8 users who pause 50 ms, for 10 minutes", _MIXED, (Stage(600, 8),), pause_s=0.05),
)

SCENARIOS: Mapping[str, Scenario] = {scenario.name: scenario for scenario in _ALL}
