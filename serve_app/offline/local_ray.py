"""A connection to Ray for scoring files: to a cluster, or to a private Ray on this machine that ends with the command."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

__all__ = ["ray_for_files"]

_OWN_RAY = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # where Ray makes no clusters, its ports are on loopback; do the same here
    "RAY_worker_niceness": "0",  # by default 15: workers would wait for everything else on the machine
    "RAY_USAGE_STATS_ENABLED": "0",  # report nothing to anyone
}


@contextlib.contextmanager
def ray_for_files(address: str | None) -> Iterator[None]:
    """Connects to the Ray cluster at ``address``; without one, starts a Ray on this machine that ends with the block."""
    if address is None:
        for name, value in _OWN_RAY.items():
            os.environ.setdefault(name, value)  # Ray reads them when it is imported
    import ray

    started = {"include_dashboard": False} if address is None else {}
    ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **started)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # the command has its own
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()
