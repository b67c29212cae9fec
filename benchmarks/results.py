"""A run's outcome as a JSON document: what the table and the chart are made from, and what is published."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.errors import BenchmarkError
from benchmarks.machine import describe_machine
from benchmarks.meter import Figure
from benchmarks.summary import Figures, summarise
from benchmarks.targets import TARGETS, Outcome, evaluate

__all__ = ["Results", "load_results", "outcomes", "save_results", "summarise_run"]


class Results(msgspec.Struct, kw_only=True):
    """One run.

    ``figures`` holds the medians, ``rounds`` what they are made of, both by server and scenario; ``titles`` names the
    servers for people, in the order of the run. ``failures`` says of servers why they were not measured.
    """

    date: str
    machine: dict[str, Any]
    seconds: int
    round_count: int
    titles: dict[str, str]
    failures: dict[str, str]
    figures: Figures
    rounds: dict[str, dict[str, list[Figure]]]


def summarise_run(
    *,
    seconds: int,
    round_count: int,
    titles: dict[str, str],
    failures: dict[str, str],
    rounds: dict[str, dict[str, list[Figure]]],
) -> Results:
    """The document of a run that has just ended."""
    return Results(
        date=datetime.now(tz=UTC).date().isoformat(),
        machine=describe_machine(),
        seconds=seconds,
        round_count=round_count,
        titles=titles,
        failures=failures,
        figures=_rounded(summarise(rounds)),
        rounds=_rounded(rounds),
    )


def outcomes(results: Results) -> list[Outcome]:
    """What became of each target."""
    return [evaluate(results.figures, target) for target in TARGETS]


def save_results(results: Results, path: Path) -> None:
    """Writes the document, with what became of each target for those who read no Python."""
    targets = [
        {"name": outcome.target.name, "value": _rounded(outcome.value), "state": outcome.state} for outcome in outcomes(results)
    ]
    document = {**msgspec.to_builtins(results), "targets": targets}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")


def load_results(path: Path) -> Results:
    """A document that ``save_results`` wrote.

    Raises:
        BenchmarkError: there is none, or it is something else.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Results)
    except (OSError, msgspec.MsgspecError) as error:
        raise BenchmarkError(f"{path} cannot be read: {error}") from error


def _rounded(value: Any) -> Any:
    """Five digits say more than any measurement here, and keep the file's changes readable."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return value
