"""The lock that lets one roll-out at a time change an application of a Ray cluster.

The lock is a Ray actor with a name: Ray makes a second one of that name impossible, and ends the actor with the process that
holds the lock, however that ends. So no lock outlives its holder. Owns the lock alone; release.py decides what it protects.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

from serve_app.errors import ReleaseError

__all__ = ["hold_rollout_lock"]

_NAMESPACE = "class-prediction-rollouts"
_ANSWER_TIMEOUT_S = 10.0
_ATTEMPTS = 20
_POLL_INTERVAL_S = 0.2


@contextlib.contextmanager
def hold_rollout_lock(application: str, purpose: str) -> Iterator[None]:
    """Holds the lock of an application while the block runs. Needs a connection to the Ray cluster.

    Args:
        application: name of the Ray Serve application.
        purpose: what the holder does, for those who are refused meanwhile.

    Raises:
        ReleaseError: another roll-out holds the lock; the message names its holder and its age.
    """
    import ray

    lock = _acquire(application, purpose)
    try:
        yield
    finally:
        ray.kill(lock)


def _acquire(application: str, purpose: str) -> Any:
    import ray

    holder = f"{purpose} by {_user()} on {socket.gethostname()} (process {os.getpid()})"
    for _ in range(_ATTEMPTS):
        try:
            return _lock_actor().options(name=application, namespace=_NAMESPACE, num_cpus=0).remote(holder)
        except ValueError:  # Ray's own: the name is taken
            pass
        try:
            other = ray.get_actor(application, namespace=_NAMESPACE)
            name, age_s = ray.get(other.describe.remote(), timeout=_ANSWER_TIMEOUT_S)
        except (ValueError, ray.exceptions.RayActorError):  # it has just been released
            time.sleep(_POLL_INTERVAL_S)
        except ray.exceptions.GetTimeoutError:
            break
        else:
            raise ReleaseError(f"another roll-out is under way: {name}, for {age_s:.0f} s; try again when it has ended")
    raise ReleaseError("another roll-out is under way; try again when it has ended")


def _lock_actor() -> Any:
    import ray

    class RolloutLock:  # within a function: Ray then sends the class itself, and its worker needs no serve_app
        def __init__(self, holder: str) -> None:
            self._holder = holder
            self._since = time.monotonic()

        def describe(self) -> tuple[str, float]:
            return self._holder, time.monotonic() - self._since

    return ray.remote(RolloutLock)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user ID without a name, as in containers
        return str(os.getuid())
