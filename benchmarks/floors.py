"""The cost of the work itself in one process, without a server: parse, score, encode the answer. The floor of every figure."""

from __future__ import annotations

import gc
import statistics
import timeit
from collections.abc import Iterator
from functools import partial

import numpy as np

from benchmarks.bodies import Bodies
from benchmarks.machine import Figure, Meter
from serve_app.components.compiled import Components
from serve_app.scoring.answers import AnswerEncoder

__all__ = ["FLOOR_ROWS", "measure_floors"]

FLOOR_ROWS = (1, 10_000)


def measure_floors(components: Components, bodies: Bodies, seconds: float) -> Iterator[tuple[str, Figure]]:
    """The whole path for 1 and for 10,000 rows: its name (``whole_path_1``) and its figure."""
    manifest = components.manifest
    parser = components.parser(max_rows=max(FLOOR_ROWS))
    answers = AnswerEncoder(
        classes=manifest.classes, threshold=manifest.threshold, selected_features=manifest.selected_features
    )

    def answer(body: bytes) -> bytes:
        values = np.concatenate([chunk.values for chunk in parser.chunks(body)])
        return b"".join(answers.encode(components.score(values)))

    for rows in FLOOR_ROWS:
        timer = timeit.Timer(partial(answer, bodies.one(rows)), setup=gc.enable)  # timeit disables it
        with Meter() as meter:
            loops, first_s = timer.autorange()
            times = timer.repeat(max(3, round(seconds / first_s)), loops)
        yield f"whole_path_{rows}", {"seconds": statistics.median(times) / loops, **meter.shares()}
