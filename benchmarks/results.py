"""A run's results as a JSON document, from which tables and chart are made."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.machine import Figure, Machine, describe_machine
from benchmarks.targets import TARGETS, Figures, Outcome, evaluate
from stress.errors import StressError

__all__ = ["Results", "cost_per_row_step", "load_results", "median_figure", "outcomes", "save_results", "summarise_run"]

Rounds = dict[str, dict[str, list[Figure]]]
"""Server, scenario: its figure of each round."""

_SUMMED = ("requests", "errors", "large_calls")
_decoder = msgspec.json.Decoder(float_hook=lambda digits: float(f"{float(digits):.5g}"))


class Results(msgspec.Struct, kw_only=True):
    """One run.

    ``figures`` holds the medians of ``rounds``, both by server and scenario. ``titles`` names the servers for people, in the
    order of the run. ``failures`` says why a server was not measured.
    """

    date: str
    machine: Machine
    seconds: int
    round_count: int
    titles: dict[str, str]
    failures: dict[str, str]
    figures: Figures
    rounds: Rounds

    def value(self, server: str, scenario: str, quantity: str) -> float | None:
        """One quantity; None if it was not measured or had errors."""
        figure = self.figures.get(server, {}).get(scenario, {})
        return None if figure.get("errors") else figure.get(quantity)


def summarise_run(
    *, seconds: int, round_count: int, titles: dict[str, str], failures: dict[str, str], rounds: Rounds
) -> Results:
    """The results of a run that has just ended: ``cost_per_row`` is added where several sizes were measured."""
    figures = {
        server: {scenario: median_figure(found) for scenario, found in scenarios.items()}
        for server, scenarios in rounds.items()
    }
    for scenarios in figures.values():
        step = cost_per_row_step(scenarios)
        if step is not None:
            scenarios["cost_per_row"] = {"worst_step": step}
    return Results(
        date=datetime.now(tz=UTC).date().isoformat(),
        machine=describe_machine(),
        seconds=seconds,
        round_count=round_count,
        titles=titles,
        failures=failures,
        figures=_rounded(figures),
        rounds=_rounded(rounds),
    )


def median_figure(rounds: Sequence[Figure]) -> Figure:
    """The median of each quantity. Requests and errors are summed, so that an error in any round shows."""
    return {
        quantity: (sum if quantity in _SUMMED else statistics.median)(figure[quantity] for figure in rounds)
        for quantity in rounds[0]
    }


def cost_per_row_step(scenarios: Mapping[str, Figure]) -> float | None:
    """The worst step of the cost per row from one size of call to the next larger: 1.0 is flat, less is falling.

    None if fewer than two sizes were measured.
    """
    sizes = sorted(int(name.removeprefix("call_")) for name in scenarios if name.startswith("call_"))
    costs = [scenarios[f"call_{size}"]["us_per_row"] for size in sizes]
    return max((after / before for before, after in pairwise(costs)), default=None)


def outcomes(results: Results) -> list[Outcome]:
    """The outcome of each target."""
    return [evaluate(results.figures, target) for target in TARGETS]


def save_results(results: Results, path: Path) -> None:
    """Writes the document, with the outcome of each target for readers of the file."""
    targets = [{"name": one.target.name, "value": _rounded(one.value), "state": one.state} for one in outcomes(results)]
    document = {**msgspec.to_builtins(results), "targets": targets}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")


def load_results(path: Path) -> Results:
    """Reads what ``save_results`` wrote.

    Raises:
        StressError: the file is missing or has another format.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Results)
    except (OSError, msgspec.MsgspecError) as error:
        raise StressError(f"{path} cannot be read: {error}") from error


def _rounded(value: Any) -> Any:
    """All floats to five significant digits: more than the precision of any measurement here."""
    return _decoder.decode(msgspec.json.encode(value))
