from __future__ import annotations

from pathlib import Path

from support.load_records import hundred_calls

from stress.capacity import Capacity
from stress.options import console
from stress.report import capacity_sentence, print_run
from stress.runs import Load, Run
from stress.scenarios import SCENARIOS


def test_the_capacity_is_one_sentence() -> None:
    here = "on this machine"
    for capacity, said in (
        (Capacity(1432.0, 1432.0, unbounded=False), f"About 1,400 one-row calls/s at p99 < 100 ms with 2 replicas {here}."),
        (
            Capacity(20_000.0, 20_000.0, unbounded=True),
            f"At least 20,000 one-row calls/s at p99 < 100 ms with 2 replicas {here}.",
        ),
        (Capacity(None, 6.25, unbounded=False), f"Less than 6 one-row calls/s at p99 < 100 ms with 2 replicas {here}."),
    ):
        assert capacity_sentence(capacity, 100.0, rows="one-row", replicas=" with 2 replicas", where=here) == said


def test_a_run_is_printed_with_its_failures_and_its_verdict(tmp_path: Path) -> None:
    records = hundred_calls(tmp_path / "requests.csv")
    load = Load(SCENARIOS["single"], "http://h", tmp_path, tmp_path, 1)
    with console.capture() as printed:
        print_run(Run(load, records, ""))
    said = printed.get()
    assert "FAILED: single: 10 of 100 calls were not answered as expected." in said
    assert '10 x no, "a' in said
    assert said.rstrip().endswith(": requests.csv")
