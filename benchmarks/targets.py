"""What this service sets out to reach, as data: each target compares two figures of one and the same run.

A ratio between figures of one run says something on any machine; a figure alone only about the machine. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from benchmarks.summary import Figures

__all__ = ["TARGETS", "Of", "Outcome", "Target", "evaluate"]

Sense = Literal["at least", "at most"]
State = Literal["met", "short", "not measured"]


@dataclass(frozen=True)
class Of:
    """A quantity of a scenario; of several servers, that of the best of them."""

    servers: tuple[str, ...]
    scenario: str
    quantity: str


@dataclass(frozen=True)
class Target:
    """``figure``, divided by ``per`` where there is one, is at least or at most ``bound``; better still ``stretch``."""

    name: str
    figure: Of
    sense: Sense
    bound: float
    unit: str = "times"
    per: Of | None = None
    stretch: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a target. ``value`` is None when something it needs was not measured, or measured with errors."""

    target: Target
    value: float | None
    state: State
    stretch_state: State | None


_OWN, _FUSED, _FLOOR = ("serve_app",), ("serve_app_fused",), ("in_process",)
_BY_HAND, _GRAPH, _FRAMEWORKS = ("fastapi_numpy",), ("ray_baseline",), ("mlserver", "bentoml")
_CALL, _SMALL_1, _SMALL_16, _SMALL_64, _HUNDRED = (
    "call_10000",
    "rows1_connections1",
    "rows1_connections16",
    "rows1_connections64",
    "rows100_connections4",
)
_RATE, _TIME, _P50, _P99 = "requests_per_s", "seconds", "p50_ms", "p99_ms"

TARGETS = (
    Target(
        "10,000 rows in one call: faster than hand-written FastAPI",
        Of(_BY_HAND, _CALL, _TIME),
        "at least",
        2.0,
        per=Of(_OWN, _CALL, _TIME),
    ),
    Target(
        "10,000 rows in one call: time of the in-process path",
        Of(_OWN, _CALL, _TIME),
        "at most",
        2.0,
        per=Of(_FLOOR, "whole_path_10000", _TIME),
    ),
    Target(
        "1 row, 64 connections: rate of the best framework",
        Of(_OWN, _SMALL_64, _RATE),
        "at least",
        3.0,
        per=Of(_FRAMEWORKS, _SMALL_64, _RATE),
    ),
    Target(
        "1 row, 64 connections: rate of the plain Ray Serve graph",
        Of(_OWN, _SMALL_64, _RATE),
        "at least",
        30.0,
        per=Of(_GRAPH, _SMALL_64, _RATE),
    ),
    Target(
        "1 row, 64 connections: rate of hand-written FastAPI",
        Of(_OWN, _SMALL_64, _RATE),
        "at least",
        0.35,
        per=Of(_BY_HAND, _SMALL_64, _RATE),
        stretch=0.5,
    ),
    Target(
        "1 row, 16 connections: rate of the best framework",
        Of(_OWN, _SMALL_16, _RATE),
        "at least",
        3.0,
        per=Of(_FRAMEWORKS, _SMALL_16, _RATE),
    ),
    Target("1 row, 1 connection: p50", Of(_OWN, _SMALL_1, _P50), "at most", 3.0, unit="ms", stretch=1.5),
    Target(
        "100 rows, 4 connections: rate of hand-written FastAPI",
        Of(_OWN, _HUNDRED, _RATE),
        "at least",
        0.9,
        per=Of(_BY_HAND, _HUNDRED, _RATE),
    ),
    Target("fused, 1 row, 1 connection: p50", Of(_FUSED, _SMALL_1, _P50), "at most", 1.0, unit="ms"),
    Target(
        "fused, 1 row, 16 connections: rate of hand-written FastAPI",
        Of(_FUSED, _SMALL_16, _RATE),
        "at least",
        0.35,
        per=Of(_BY_HAND, _SMALL_16, _RATE),
    ),
    Target(
        "fused, 1 row, 64 connections: rate of hand-written FastAPI",
        Of(_FUSED, _SMALL_64, _RATE),
        "at least",
        0.35,
        per=Of(_BY_HAND, _SMALL_64, _RATE),
    ),
    Target(
        "fused, 100 rows, 4 connections: rate of hand-written FastAPI",
        Of(_FUSED, _HUNDRED, _RATE),
        "at least",
        1.0,
        per=Of(_BY_HAND, _HUNDRED, _RATE),
    ),
    Target(
        "1 row, 16 connections beside 10,000-row calls: p99 without them",
        Of(_OWN, "mixed", _P99),
        "at most",
        6.0,
        per=Of(_OWN, _SMALL_16, _P99),
    ),
    # "Falls or stays flat", with a tenth for what two measurements of the same thing differ by.
    Target("cost per row, 100 to 100,000 rows: worst step", Of(_OWN, "cost_per_row", "worst_step"), "at most", 1.1),
    Target("memory growth in a 100,000-row call: size of the body", Of(_OWN, "memory", "growth_per_body"), "at most", 4.0),
    Target("launch to first answer", Of(_OWN, "start", _TIME), "at most", 12.0, unit="s"),
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


def _find(figures: Mapping[str, Mapping[str, Mapping[str, float]]], wanted: Of) -> float | None:
    """The best value: the highest rate, the lowest of anything else."""
    found = [figures.get(server, {}).get(wanted.scenario, {}) for server in wanted.servers]
    values = [figure[wanted.quantity] for figure in found if wanted.quantity in figure and not figure.get("errors")]
    if not values:
        return None
    return max(values) if wanted.quantity == _RATE else min(values)


def _judge(value: float, sense: Sense, bound: float) -> State:
    return "met" if (value >= bound if sense == "at least" else value <= bound) else "short"
