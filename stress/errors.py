"""The errors of load tests and benchmarks. Each message is a complete sentence for the user."""

from __future__ import annotations

__all__ = ["StressError", "WrongAnswerError"]


class StressError(Exception):
    """The run cannot continue; the message says why and what to do."""


class WrongAnswerError(Exception):
    """The service's answer differs from the expected one; the message says how and names the row."""
