"""The logger of replicas, which Ray Serve writes to the replica's own log file."""

from __future__ import annotations

import logging

__all__ = ["logger"]

logger = logging.getLogger("ray.serve")
