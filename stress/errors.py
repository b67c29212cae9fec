"""What can go wrong in a load test, said in one sentence each."""

from __future__ import annotations

__all__ = ["StressError", "WrongAnswerError"]


class StressError(Exception):
    """The load test cannot run; the sentence says why and what to do."""


class WrongAnswerError(Exception):
    """The service answered otherwise than it should have; the sentence says how, and names the row."""
