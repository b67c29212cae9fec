"""What counts as JSON, told by the standard library: what our own parser is compared with."""

from __future__ import annotations

import json

__all__ = ["strictly_json"]


def strictly_json(body: bytes) -> bool:
    """Whether the standard library takes it for JSON, without NaN and Infinity."""

    def refuse(token: str) -> None:
        raise ValueError(token)

    try:
        json.loads(body.decode("utf-8", "strict"), parse_constant=refuse)
    except (ValueError, RecursionError):
        return False
    return True
