"""The autoscaling policy: how many replicas the queue needs, given that a request may hold one row or a hundred thousand.

Owns the policy that ``policy_function`` in config/serve_config.yaml names. Ray Serve's own policy counts only requests, but
eight clients that send 10,000 rows at a time keep a replica busy, while 128 requests of one row do not. Ray Serve sends the
class to its controller by value, so this module imports nothing of the package. How long a load must last before replicas are
added or removed is a setting of Ray Serve, in the same section of the config.
"""

from __future__ import annotations

from typing import Any

from ray.serve.config import AutoscalingContext

__all__ = ["BODY_BYTES", "QueueAndWork"]

BODY_BYTES = "body_bytes"
"""The name under which a replica reports the bytes of the bodies that it is scoring."""


class QueueAndWork:
    """As many replicas as the number of requests needs, or the bytes of their bodies, whichever is more.

    One replica scores a request, so the bytes never ask for more replicas than there are requests: a single client that sends
    one large call after another gets no second replica, which could not help it. If replicas report no bytes, only requests
    count. A replica is removed only if the others would then be at most three quarters busy, because a load near their limit
    would otherwise add and remove a replica again and again.

    Args:
        target_body_bytes: bytes of bodies that one replica should be scoring at a time.
    """

    BUSY_ENOUGH = 0.75

    def __init__(self, target_body_bytes: int) -> None:
        self._target_body_bytes = target_body_bytes

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """The number of replicas wanted, not rounded, and an empty state. Ray Serve asks about ten times a second."""
        if context.current_num_replicas == 0:
            return context.target_num_replicas, {}
        requests = context.total_num_requests
        body_bytes = sum((context.aggregated_metrics or {}).get(BODY_BYTES, {}).values())
        by_requests, by_work = requests / context.config.get_target_ongoing_requests(), body_bytes / self._target_body_bytes
        wanted = max(by_requests, min(by_work, requests))
        if wanted < context.current_num_replicas:
            wanted = min(wanted / self.BUSY_ENOUGH, context.current_num_replicas)
        return wanted, {}
