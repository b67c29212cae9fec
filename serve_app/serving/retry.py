"""Retries with exponential back-off, driven by Ray Serve's health checks instead of a task of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from time import perf_counter
from typing import Any

__all__ = ["Retry"]

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 60.0


class Retry:
    """Repeats a failed step: after 5 s, then after twice the last pause, at most 60 s. Never runs two attempts at once."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self.reset()

    def reset(self) -> None:
        """Starts again with the first pause, because there is something else to try."""
        self._pause_s = _FIRST_PAUSE_S
        self._next = perf_counter() + self._pause_s

    def maybe(self, attempt: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Starts another attempt if one is due and none is running."""
        if perf_counter() < self._next or (self._task is not None and not self._task.done()):
            return
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        self._next = perf_counter() + self._pause_s
        self._task = asyncio.get_running_loop().create_task(attempt())
