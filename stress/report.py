"""The tables and sentences that a load test prints."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from rich.text import Text

from stress.capacity import Capacity, Step
from stress.options import console, table
from stress.records import Figures, Records, duration, figures
from stress.runs import Run

__all__ = ["capacity_sentence", "print_comparison", "print_run", "print_step"]

_LISTED_FAILURES = 10


def print_run(run: Run) -> None:
    """The figures of each kind of call, the failures, the verdict and the files of the report."""
    found = table("calls of", "calls", "failed", "calls/s", "rows/s", "p50 ms", "p95 ms", "p99 ms", "max ms")
    for kind, one in _by_kind(run.records).items():
        counts = (f"{one.calls:,}", f"{one.failures:,}", f"{one.calls_per_s:,.1f}", f"{one.rows_per_s:,.0f}")
        found.add_row(kind, *counts, *map(_ms, (one.p50_ms, one.p95_ms, one.p99_ms, one.max_ms)))
    console.print(found)
    failures = run.records["failure"][~run.records["good"]].value_counts()
    for failure, count in failures.head(_LISTED_FAILURES).items():
        console.print(Text(f"{count:,} x {failure}", style="red"))
    if len(failures) > _LISTED_FAILURES:
        console.print(Text(f"... and {len(failures) - _LISTED_FAILURES:,} others, see requests.csv", style="red"))
    console.print(Text(_verdict(run), style="bold red" if run.failed else "bold green"))
    console.print(f"{run.load.out}: {', '.join(sorted(path.name for path in run.load.out.iterdir()))}")


def print_step(step: Step, limit_ms: float) -> None:
    """One step of the capacity search."""
    console.print(
        f"{step.rate:7,.0f} calls/s for {step.seconds:.0f} s: p50 {_ms(step.p50_ms)} ms, p99 {_ms(step.p99_ms)} ms, "
        f"{step.failures:,} of {step.calls:,} failed, sent late by {_ms(step.late_p99_ms)} ms at p99: "
        f"{'holds' if step.holds(limit_ms) else 'does not hold'}"
    )


def capacity_sentence(capacity: Capacity, limit_ms: float, *, rows: str, replicas: str, where: str) -> str:
    """The result of the search in one sentence."""
    condition = f"{rows} calls/s at p99 < {limit_ms:g} ms{replicas} {where}."
    if capacity.rate is None:
        return f"Less than {_rounded(capacity.lowest)} {condition}"
    return f"{'At least' if capacity.unbounded else 'About'} {_rounded(capacity.rate)} {condition}"


def print_comparison(titles: Sequence[str], compared: pd.DataFrame, failures: Sequence[int]) -> None:
    """The medians of two servers and their ratios."""
    found = table("median of rounds", *titles, "B / A")
    for name, *values in compared.itertuples():
        found.add_row(name, *(f"{value:,.2f}" for value in values))
    found.add_row("failed calls", *(f"{count:,}" for count in failures), "")
    console.print(found)


def _verdict(run: Run) -> str:
    calls, failed = len(run.records), int((~run.records["good"]).sum())
    name = run.load.scenario.name
    if failed:
        return f"FAILED: {name}: {failed:,} of {calls:,} calls were not answered as expected."
    if run.complaint:
        return f"FAILED: {name}: {run.complaint}."
    return f"Passed: {name}: all {calls:,} calls were answered as expected."


def _by_kind(records: Records) -> dict[str, Figures]:
    seconds = duration(records)
    found = {str(kind): figures(made, seconds) for kind, made in records.groupby("kind")}
    return found if len(found) == 1 else {**found, "all": figures(records, seconds)}


def _ms(value: float) -> str:
    return f"{value:,.1f}"


def _rounded(rate: float) -> str:
    """Two significant digits, the precision of the search."""
    return f"{float(f'{rate:.2g}'):,.0f}"
