"""How many replicas a queue calls for whose requests may be of one row or of a hundred thousand.

Owns the policy that ``policy_function`` in config/serve_config.yaml names. Ray Serve's own counts requests alone: eight clients
that send 10,000 rows at a time keep a replica busy and are eight requests, where 128 of one row are none too many. Ray Serve
sends the class to its controller by value, so this module takes nothing from the package. How long a load has to last before
replicas come and go is Ray Serve's, and stands beside the policy in the config.
"""

from __future__ import annotations

from typing import Any

from ray.serve.config import AutoscalingContext

__all__ = ["BODY_BYTES", "QueueAndWork"]

BODY_BYTES = "body_bytes"
"""What a replica calls the bytes of the bodies that it is scoring, when it tells its autoscaling statistics."""


class QueueAndWork:
    """As many replicas as the requests call for, or as the bytes of their bodies do, whichever is more.

    A request is scored by one replica, so bytes never call for more replicas than there are requests: one client that sends
    large calls one after the other gets no second replica, which could not help it. Where replicas tell of no bytes, requests
    alone count. A replica goes when those that stay would be busy to three quarters at most: otherwise a load at the edge of
    what they can do would have one come and go again and again.

    Args:
        target_body_bytes: of the bodies that one replica is scoring at a time.
    """

    BUSY_ENOUGH = 0.75

    def __init__(self, target_body_bytes: int) -> None:
        self._target_body_bytes = target_body_bytes

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """The replicas wanted, not rounded, and what to remember: nothing. Ray Serve asks every tenth of a second or so."""
        if context.current_num_replicas == 0:
            return context.target_num_replicas, {}
        requests = context.total_num_requests
        body_bytes = sum((context.aggregated_metrics or {}).get(BODY_BYTES, {}).values())
        by_requests, by_work = requests / context.config.get_target_ongoing_requests(), body_bytes / self._target_body_bytes
        wanted = max(by_requests, min(by_work, requests))
        if wanted < context.current_num_replicas:
            wanted = min(wanted / self.BUSY_ENOUGH, context.current_num_replicas)
        return wanted, {}
