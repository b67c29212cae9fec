"""How the number of replicas follows a load: samples of the Ray dashboard over time, and ``replicas.csv``."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stress.errors import StressError
from stress.records import Records
from stress.service import count_replicas

__all__ = ["ReplicaSampler", "in_flight", "summary"]

_INTERVAL_S = 0.5


class ReplicaSampler:
    """Counts replicas twice a second, from the start of the load to the end of the block.

    Args:
        dashboard: URL of the Ray dashboard.
        token: the dashboard's token, if it requires one.
        begin: a file that the load creates when it begins.
    """

    def __init__(self, dashboard: str, token: str | None, begin: Path) -> None:
        self._dashboard = dashboard
        self._token = token
        self._begin = begin
        self._samples: dict[float, dict[str, int]] = {}
        self._failure = StressError("the load never began")
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> Self:
        count_replicas(self._dashboard, self._token)  # fails before the load begins if the dashboard does not answer
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def replicas(self) -> pd.DataFrame:
        """The running replicas: a line per sample, indexed by ``at_s`` since the load began, and a column per deployment.

        Raises:
            StressError: the dashboard never answered.
        """
        if not self._samples:
            raise self._failure
        samples = pd.DataFrame.from_dict(self._samples, orient="index").rename_axis("at_s").fillna(0).astype(int)
        return samples.sort_index(axis="columns", ascending=False)

    def _sample(self) -> None:
        while not self._begin.exists():
            if self._is_over.wait(0.05):
                return
        started = time.monotonic()
        while True:
            at_s = time.monotonic() - started
            try:
                self._samples[at_s] = count_replicas(self._dashboard, self._token)
            except StressError as error:  # a busy machine may not answer now and then
                self._failure = error
            if self._is_over.wait(_INTERVAL_S):
                return


def summary(counts: pd.Series[int]) -> str:
    """The first, highest and last number of a deployment's replicas, and how often it changed."""
    changes = int((counts.diff().fillna(0) != 0).sum())
    first, last = counts.iloc[0], counts.iloc[-1]
    return f"{counts.name} replicas: {first} before, at most {counts.max()}, {last} at the end; {changes} changes"


def in_flight(records: Records, moments: NDArray[np.float64]) -> NDArray[np.int64]:
    """The number of calls without an answer at each of ``moments``, in seconds; of the same shape."""
    begun, ended = (np.sort(records[column].to_numpy()) for column in ("due_s", "answered_s"))
    return begun.searchsorted(moments, "right") - ended.searchsorted(moments, "right")
