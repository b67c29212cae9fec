"""What the model itself makes of rows, in this process: what every served answer is compared with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.components.compiled import Components

__all__ = ["score"]


def score(components: Components, rows: Sequence[dict[str, Any]]) -> NDArray[np.float64]:
    """Probabilities of shape (rows, classes)."""
    chunks = components.parser(max_rows=len(rows)).chunks(json.dumps(rows).encode())
    return np.concatenate([components.score(chunk.values) for chunk in chunks])
