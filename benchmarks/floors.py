"""The cost of the work itself in one process, without a server: the floor under every figure.

Decoding by json, orjson and the service's own typed parser (msgspec on the columns that the model uses), and the whole path
of a request: parse, score, encode the answer.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.bodies import Bodies
from benchmarks.environments import ensure_environment
from benchmarks.machine import Figure, Meter
from benchmarks.timing import median_time
from serve_app.components.compiled import Components
from serve_app.config import PROJECT_ROOT
from serve_app.scoring.answers import AnswerEncoder

__all__ = ["FLOORS", "FLOOR_ROWS", "measure_floors"]

FLOORS = ("json", "orjson", "msgspec", "whole_path")
FLOOR_ROWS = (1, 10_000)


def measure_floors(components: Components, bodies: Bodies, seconds: float) -> Iterator[tuple[str, Figure]]:
    """Each floor for 1 and for 10,000 rows: its name (``json_10000``) and its figure."""
    manifest = components.manifest
    parser = components.parser(max_rows=max(FLOOR_ROWS))
    answers = AnswerEncoder(
        classes=manifest.classes, threshold=manifest.threshold, selected_features=manifest.selected_features
    )

    def parse(body: bytes) -> NDArray[np.float64]:
        chunks = [chunk.values for chunk in parser.chunks(body)]
        return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)

    def answer(body: bytes) -> bytes:
        return b"".join(answers.encode(components.scorer.score(components.encoder.encode(parse(body)))))

    in_this_process: dict[str, Callable[[bytes], object]] = {"json": json.loads, "msgspec": parse, "whole_path": answer}
    for rows in FLOOR_ROWS:
        for name in FLOORS:
            with Meter() as meter:
                if name == "orjson":
                    found = _time_orjson(bodies, rows, seconds)
                else:
                    found = median_time(partial(in_this_process[name], bodies.one(rows)), seconds)
            yield f"{name}_{rows}", {"seconds": found, **meter.shares()}


def _time_orjson(bodies: Bodies, rows: int, seconds: float) -> float:
    """In the environment that has orjson; the service does not need it."""
    path = bodies.folder / "orjson.json"
    path.write_bytes(bodies.one(rows))
    python = ensure_environment("fastapi_numpy") / "python"
    command = [str(python), "-m", "benchmarks.rivals.fastapi_numpy.decode", str(path), str(seconds)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
