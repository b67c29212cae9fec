"""Records of load tests that never ran: what the tests of figures and charts read."""

from __future__ import annotations

from pathlib import Path

from stress.records import Records, RecordWriter, read_records

__all__ = ["hundred_calls", "write_calls"]


def write_calls(path: Path, calls: list[tuple[float, str, int, float, str]]) -> Records:
    """Calls given by due_s, kind, rows, ms and failure."""
    writer = RecordWriter(path)
    for due_s, kind, rows, ms, failure in calls:
        writer.write(due_s=due_s, kind=kind, rows=rows, status=200, late_ms=0.5, ms=ms, failure=failure)
    writer.close()
    return read_records(path)


def hundred_calls(path: Path) -> Records:
    """Latencies from 1 to 100 ms; every tenth call is a fast failure."""
    return write_calls(path, [(i / 50, "one row", 2, float(i + 1), 'no, "a\nb"' if i % 10 == 0 else "") for i in range(100)])
