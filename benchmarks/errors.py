"""What can go wrong in a benchmark run, said in one sentence each."""

from __future__ import annotations

__all__ = ["BenchmarkError"]


class BenchmarkError(Exception):
    """The run, or one server's part of it, cannot go on; the sentence says why and what to do."""
