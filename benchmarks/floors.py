"""What the work itself costs in one process, without any server: the floor under every figure.

Decoding with json, orjson and the service's own typed parser (msgspec on the columns that the model uses), and the whole
path of a request: parse, score, encode the answer.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.bodies import Bodies
from benchmarks.environments import ensure_environment
from benchmarks.meter import Figure, Meter
from benchmarks.timing import median_time
from serve_app.components.compiled import Components
from serve_app.config import PROJECT_ROOT
from serve_app.scoring.answers import AnswerEncoder

__all__ = ["FLOORS", "FLOOR_ROWS", "measure_floors"]

FLOORS = ("json", "orjson", "msgspec", "whole_path")
FLOOR_ROWS = (1, 10_000)


def measure_floors(components: Components, bodies: Bodies, seconds: float) -> Iterator[tuple[str, Figure]]:
    """Each floor for 1 and for 10,000 rows: its name (``json_10000``) and its figure."""
    path = _WholePath(components)
    for rows in FLOOR_ROWS:
        body = bodies.one(rows)
        work: dict[str, Callable[[], float]] = {
            "json": partial(median_time, partial(json.loads, body), seconds),
            "orjson": partial(_time_orjson, body, bodies.folder, seconds),
            "msgspec": partial(median_time, partial(path.parse, body), seconds),
            "whole_path": partial(median_time, partial(path.answer, body), seconds),
        }
        for name in FLOORS:
            with Meter() as meter:
                found = work[name]()
            yield f"{name}_{rows}", {"seconds": found, **meter.shares()}


class _WholePath:
    """A request without HTTP and Ray."""

    def __init__(self, components: Components) -> None:
        manifest = components.manifest
        self._components = components
        self._parser = components.parser(max_rows=max(FLOOR_ROWS))
        self._answers = AnswerEncoder(
            classes=manifest.classes, threshold=manifest.threshold, selected_features=manifest.selected_features
        )

    def parse(self, body: bytes) -> NDArray[np.float64]:
        chunks = [chunk.values for chunk in self._parser.chunks(body)]
        return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)

    def answer(self, body: bytes) -> bytes:
        matrix = self._components.encoder.encode(self.parse(body))
        return b"".join(self._answers.encode(self._components.scorer.score(matrix)))


def _time_orjson(body: bytes, folder: Path, seconds: float) -> float:
    """In the environment that has orjson; the service itself does without."""
    path = folder / "orjson.json"
    path.write_bytes(body)
    python = ensure_environment("fastapi_numpy") / "python"
    command = [str(python), "-m", "benchmarks.rivals.fastapi_numpy.decode", str(path), str(seconds)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
