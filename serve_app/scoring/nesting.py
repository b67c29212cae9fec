"""How deeply the arrays and objects of a JSON document are nested, and the refusal of those that are too deep.

Owns the depth limit. Assumes that the document is valid JSON, except in ``too_deep_at``; knows no rows and no columns.
"""

from __future__ import annotations

import re
from itertools import islice

import numpy as np

from serve_app.errors import MalformedJSONError

__all__ = ["MAX_DEPTH", "STRUCTURE", "TooDeepError", "check_nesting", "is_deeper", "too_deep_at"]

MAX_DEPTH = 200
"""More than any row needs; the decoder itself gives up between 900 and 1000."""

STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{},]', re.DOTALL)
"""A whole string, or one structural character outside of strings."""

_STEPS = np.zeros(256, dtype=np.int8)  # how a byte outside of strings changes the depth
_STEPS[list(b"[{")] = 1
_STEPS[list(b"]}")] = -1

_SLICE_BYTES = 256 * 1024
_MAX_TOKENS = 100_000


class TooDeepError(MalformedJSONError):
    """The document is nested too deeply; it would be at any other place where it might be cut, too."""


def check_nesting(text: str, max_nesting: int, rows: int = 0) -> None:
    """Checks the depth of a row, or of an array of rows; ``max_nesting`` includes the row itself, but not the array.

    ``rows`` is how many objects the array has, if the caller knows it. With no more brackets than that many flat rows and one
    row of the greatest depth have, nothing can be too deep, and the depths are not computed.

    Raises:
        TooDeepError: the depth exceeds ``max_nesting``.
    """
    most = rows + max_nesting
    if _count(text, "{", most) + _count(text, "[", most) <= most:
        return
    max_depth = max_nesting + (text.lstrip()[:1] == "[")
    if is_deeper(text, max_depth):
        raise TooDeepError(f"nested more than {max_nesting} levels deep", too_deep_at(text, max_depth))


def is_deeper(text: str, max_depth: int) -> bool:
    """Whether arrays and objects are nested more than ``max_depth`` levels deep.

    Computed on whole arrays of bytes, because a loop over brackets would be slower than the decoder on a body full of them.
    """
    plain = text.encode().replace(rb"\\", b"").replace(rb"\"", b"")  # now every quote begins or ends a string
    is_in_string, depth = 0, 0
    for start in range(0, len(plain), _SLICE_BYTES):
        piece = np.frombuffer(plain, np.uint8, min(_SLICE_BYTES, len(plain) - start), start)
        strings = (np.cumsum(piece == ord('"'), dtype=np.uint8) + is_in_string) & 1
        depths = np.cumsum(_STEPS[piece] * (1 - strings), dtype=np.int32)
        if depth + depths.max() > max_depth:
            return True
        is_in_string, depth = strings[-1], depth + int(depths[-1])
    return False


def too_deep_at(text: str, max_depth: int) -> int:
    """The byte at which the nesting exceeds ``max_depth``, or where the search for it was given up."""
    depth = end = 0
    for token in islice(STRUCTURE.finditer(text), _MAX_TOKENS):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        end = token.start()
        if depth > max_depth:
            break
    return len(text[:end].encode())


def _count(text: str, mark: str, most: int) -> int:
    """How often a character occurs, or a number above ``most``. find() skips what count() would visit one by one."""
    count, at = 0, text.find(mark)
    while at >= 0 and count <= most:
        count += 1
        at = text.find(mark, at + 1)
    return count
