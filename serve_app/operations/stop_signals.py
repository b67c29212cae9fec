"""SIGINT, SIGTERM and SIGHUP as an exception and an event."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType

__all__ = ["StopSignal", "on_stop_signals", "raise_stop_signal", "stop_requested"]


class StopSignal(BaseException):
    """SIGINT, SIGTERM or SIGHUP arrived; not an Exception, so that no code on the way handles it as an error."""


stop_requested = threading.Event()
"""Set by a stop signal. Its exception alone is not enough: it may be raised in code that swallows exceptions."""


def raise_stop_signal(_number: int, _frame: FrameType | None) -> None:
    """A signal handler that raises StopSignal."""
    stop_requested.set()
    raise StopSignal


def on_stop_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    """Installs a handler for SIGINT, SIGTERM and SIGHUP; an ignored SIGHUP (nohup) stays ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)
