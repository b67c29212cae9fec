"""The targets of this service, as data: most compare two figures of the same run. Pure.

A ratio of figures of one run means something on any machine; a single figure describes only its own machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

__all__ = ["TARGETS", "Figures", "Of", "Outcome", "Target", "evaluate"]

Figures = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Server, scenario, quantity: its value."""

Sense = Literal["at least", "at most"]
State = Literal["met", "short", "not measured"]


class Of(NamedTuple):
    """A quantity of a scenario, of the best of some servers."""

    servers: tuple[str, ...]
    scenario: str
    quantity: str


@dataclass(frozen=True)
class Target:
    """``figure``, divided by ``per`` if given, must be at least or at most ``bound``, ideally ``stretch``."""

    name: str
    figure: Of
    sense: Sense
    bound: float
    unit: str = "times"
    per: Of | None = None
    stretch: float | None = None


@dataclass(frozen=True)
class Outcome:
    """The outcome of a target. ``value`` is None if a figure it needs was not measured, or measured with errors."""

    target: Target
    value: float | None
    state: State
    stretch_state: State | None


_RATE = "requests_per_s"
_OWN, _FUSED, _BY_HAND, _FRAMEWORKS = ("serve_app",), ("serve_app_fused",), ("fastapi_numpy",), ("mlserver", "bentoml")
_ONE, _SIXTEEN, _SIXTY_FOUR = "rows1_connections1", "rows1_connections16", "rows1_connections64"
_HUNDRED, _CALL = "rows100_connections4", "call_10000"


def _faster(name: str, servers: tuple[str, ...], scenario: str, rivals: tuple[str, ...], bound: float) -> Target:
    """A target for a rate, relative to the best rival's."""
    return Target(name, Of(servers, scenario, _RATE), "at least", bound, per=Of(rivals, scenario, _RATE))


def _time(name: str, figure: Of, bound: float, unit: str, stretch: float | None = None) -> Target:
    """A target for a time in absolute terms."""
    return Target(name, figure, "at most", bound, unit, stretch=stretch)


def _ratio(name: str, figure: Of, bound: float, per: Of | None = None) -> Target:
    """A target for a ratio that must be small."""
    return Target(name, figure, "at most", bound, per=per)


_BY_HAND_S = Of(_BY_HAND, _CALL, "seconds")
_CALL_S = Of(_OWN, _CALL, "seconds")
_WHOLE_PATH_S = Of(("in_process",), "whole_path_10000", "seconds")
_BY_HAND_64 = "1 row, 64 connections: rate of hand-written FastAPI"

TARGETS = (
    Target(
        "10,000 rows in one call: faster than hand-written FastAPI",
        Of(_BY_HAND, _CALL, "seconds"),
        "at least",
        2.0,
        per=_CALL_S,
    ),
    _ratio("10,000 rows in one call: time of the in-process path", _CALL_S, 2.0, _WHOLE_PATH_S),
    _faster("1 row, 64 connections: rate of the best framework", _OWN, _SIXTY_FOUR, _FRAMEWORKS, 3.0),
    _faster("1 row, 64 connections: rate of the plain Ray Serve graph", _OWN, _SIXTY_FOUR, ("ray_baseline",), 30.0),
    replace(_faster(_BY_HAND_64, _OWN, _SIXTY_FOUR, _BY_HAND, 0.35), stretch=0.5),
    _faster("1 row, 16 connections: rate of the best framework", _OWN, _SIXTEEN, _FRAMEWORKS, 3.0),
    _time("1 row, 1 connection: p50", Of(_OWN, _ONE, "p50_ms"), 3.0, "ms", stretch=1.5),
    _faster("100 rows, 4 connections: rate of hand-written FastAPI", _OWN, _HUNDRED, _BY_HAND, 0.9),
    _time("fused, 1 row, 1 connection: p50", Of(_FUSED, _ONE, "p50_ms"), 1.0, "ms"),
    _faster("fused, 1 row, 16 connections: rate of hand-written FastAPI", _FUSED, _SIXTEEN, _BY_HAND, 0.35),
    _faster("fused, 1 row, 64 connections: rate of hand-written FastAPI", _FUSED, _SIXTY_FOUR, _BY_HAND, 0.35),
    _faster("fused, 100 rows, 4 connections: rate of hand-written FastAPI", _FUSED, _HUNDRED, _BY_HAND, 1.0),
    _ratio(
        "1 row, 16 connections beside 10,000-row calls: p99 without them",
        Of(_OWN, "mixed", "p99_ms"),
        6.0,
        Of(_OWN, _SIXTEEN, "p99_ms"),
    ),
    # "Falls or stays flat", with a tenth for the difference of two measurements of the same thing.
    _ratio("cost per row, 100 to 100,000 rows: worst step", Of(_OWN, "cost_per_row", "worst_step"), 1.1),
    _ratio("memory growth in a 100,000-row call: size of the body", Of(_OWN, "memory", "growth_per_body"), 4.0),
    _time("launch to first answer", Of(_OWN, "start", "seconds"), 12.0, "s"),
)


def evaluate(figures: Figures, target: Target) -> Outcome:
    """Whether a run reached the target."""
    value = _find(figures, target.figure)
    if target.per is not None and value is not None:
        divisor = _find(figures, target.per)
        value = value / divisor if divisor else None
    if value is None:
        return Outcome(target, None, "not measured", None)
    stretch = None if target.stretch is None else _judge(value, target.sense, target.stretch)
    return Outcome(target, value, _judge(value, target.sense, target.bound), stretch)


def _find(figures: Figures, wanted: Of) -> float | None:
    """The best value: the highest rate, the lowest of anything else."""
    found = [figures.get(server, {}).get(wanted.scenario, {}) for server in wanted.servers]
    values = [figure[wanted.quantity] for figure in found if wanted.quantity in figure and not figure.get("errors")]
    if not values:
        return None
    return max(values) if wanted.quantity == _RATE else min(values)


def _judge(value: float, sense: Sense, bound: float) -> State:
    return "met" if (value >= bound if sense == "at least" else value <= bound) else "short"
