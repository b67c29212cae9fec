"""From the figures of all rounds to one of each: medians, and what follows from several of them. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise

from benchmarks.meter import Figure

__all__ = ["Figures", "Rounds", "cost_per_row_step", "median_figure", "summarise"]

Rounds = Mapping[str, Mapping[str, Sequence[Figure]]]
"""Server, scenario: its figure of each round."""

Figures = dict[str, dict[str, Figure]]
"""Server, scenario: its figure."""

_SUMMED = ("requests", "errors", "large_calls")


def median_figure(rounds: Sequence[Figure]) -> Figure:
    """The median of each quantity; requests and errors are added up, so that one error in any round shows."""
    return {
        quantity: sum(figure[quantity] for figure in rounds)
        if quantity in _SUMMED
        else statistics.median(figure[quantity] for figure in rounds)
        for quantity in rounds[0]
    }


def cost_per_row_step(scenarios: Mapping[str, Figure]) -> float | None:
    """The worst step of the cost per row from one size of call to the next larger: 1.0 is flat, less is falling.

    None where fewer than two sizes were measured.
    """
    sizes = sorted(int(name.removeprefix("call_")) for name in scenarios if name.startswith("call_"))
    costs = [scenarios[f"call_{size}"]["us_per_row"] for size in sizes]
    return max((after / before for before, after in pairwise(costs)), default=None)


def summarise(rounds: Rounds) -> Figures:
    """One figure per server and scenario; ``cost_per_row`` is added where it can be."""
    figures: Figures = {
        server: {scenario: median_figure(found) for scenario, found in scenarios.items()}
        for server, scenarios in rounds.items()
    }
    for scenarios in figures.values():
        step = cost_per_row_step(scenarios)
        if step is not None:
            scenarios["cost_per_row"] = {"worst_step": step}
    return figures
