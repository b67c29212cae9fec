"""Two servers under the same scenario: from the figures of their rounds to ratios. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from stress.records import Figures

__all__ = ["COMPARED", "Ratio", "compare"]

COMPARED = {
    "calls/s": "calls_per_s",
    "rows/s": "rows_per_s",
    "p50 ms": "p50_ms",
    "p95 ms": "p95_ms",
    "p99 ms": "p99_ms",
    "max ms": "max_ms",
}


@dataclass(frozen=True)
class Ratio:
    """The medians of a figure over the rounds of either server."""

    name: str
    a: float
    b: float

    @property
    def ratio(self) -> float:
        """B / A; NaN where there is none."""
        return self.b / self.a if self.a else float("nan")


def compare(a: Sequence[Figures], b: Sequence[Figures]) -> list[Ratio]:
    """One ratio per figure of two servers' rounds, which must be as many."""
    return [
        Ratio(
            name,
            *(statistics.median(getattr(one, quantity) for one in rounds) for rounds in (a, b)),
        )
        for name, quantity in COMPARED.items()
    ]
