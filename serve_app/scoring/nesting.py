"""How deep arrays and objects of a JSON text are nested."""

from __future__ import annotations

import re
from itertools import islice

import numpy as np

__all__ = ["MAX_DEPTH", "STRUCTURE", "is_deeper", "too_deep_at"]

STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{},]', re.DOTALL)
_STEPS = np.zeros(256, dtype=np.int8)  # what a byte outside of texts does to the depth
_STEPS[list(b"[{")] = 1
_STEPS[list(b"]}")] = -1
_SLICE_BYTES = 256 * 1024
MAX_DEPTH = 200  # what no row needs; the decoder itself gives up between 900 and 1000
_MAX_TOKENS = 100_000


def is_deeper(text: str, max_depth: int) -> bool:
    """Whether arrays and objects of a JSON text stand in each other more than ``max_depth`` deep.

    A body of nothing but brackets must not take longer here than in the decoder: array by array, no loop over brackets.
    """
    plain = text.encode().replace(rb"\\", b"").replace(rb"\"", b"")  # now each quote begins or ends a text
    is_in_text, depth = 0, 0
    for start in range(0, len(plain), _SLICE_BYTES):
        piece = np.frombuffer(plain, np.uint8, min(_SLICE_BYTES, len(plain) - start), start)
        texts = (np.cumsum(piece == ord('"'), dtype=np.uint8) + is_in_text) & 1
        depths = np.cumsum(_STEPS[piece] * (1 - texts), dtype=np.int32)
        if depth + depths.max() > max_depth:
            return True
        is_in_text, depth = texts[-1], depth + int(depths[-1])
    return False


def too_deep_at(text: str, max_depth: int) -> int:
    """The byte at which nesting passes ``max_depth``, or where the search for it was given up."""
    depth = end = 0
    for token in islice(STRUCTURE.finditer(text), _MAX_TOKENS):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        end = token.start()
        if depth > max_depth:
            break
    return len(text[:end].encode())
