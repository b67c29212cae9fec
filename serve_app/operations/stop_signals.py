"""SIGINT, SIGTERM and SIGHUP: a stop at once while the service starts, a request to stop once it answers.

Owns what a signal does. A separate thread waits for signals, because the main thread is in Ray's code for seconds at a time,
where an exception ends as a stack trace or a crash. The thread learns of signals by the wake-up file descriptor, to which
Python's C code writes at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

__all__ = ["StopSignals"]

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignals:
    """What stop signals do from now on; of the process, so there is one.

    ``requested`` is set by a signal once ``is_serving`` is; before, ``leave`` is called, which never returns.
    """

    def __init__(self) -> None:
        self.requested = threading.Event()
        self.is_serving = False
        self.leave: Callable[[], None] = _leave
        self._reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self.install()
        threading.Thread(target=self._watch, daemon=True, name="stop signals").start()

    def install(self) -> None:
        """Handles the signals, again after Ray has installed handlers of its own; an ignored SIGHUP (nohup) stays ignored."""
        for number in _NUMBERS:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _do_nothing)

    def _watch(self) -> None:
        while True:
            (number,) = os.read(self._reader, 1)
            if number in _NUMBERS:
                if not self.is_serving:
                    self.leave()
                self.requested.set()


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    """The thread does it."""


def _leave() -> None:
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os.write(1, b"Stopped.\n")
    os._exit(0)
