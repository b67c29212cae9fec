"""JSON as a syntax: the kind of a value, the elements of an array, and where a document is malformed.

Owns the translation of msgspec's errors into a reason and a byte offset. Knows no rows and no columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from serve_app.errors import MalformedJSONError
from serve_app.scoring.nesting import MAX_DEPTH, STRUCTURE, too_deep_at

__all__ = ["elements", "json_kind", "malformed"]

_KINDS = {b"{": "an object", b"[": "an array", b'"': "a string", b"t": "a boolean", b"f": "a boolean", b"n": "null"}
_OFFSET = re.compile(r"\(byte (\d+)\)")


def json_kind(raw: msgspec.Raw) -> str:
    """The kind of a JSON value with its article, for a message."""
    return _KINDS.get(bytes(raw).lstrip()[:1], "a number")


def elements(array: str) -> Iterator[msgspec.Raw]:
    """The elements of a valid JSON array, one at a time: all of them at once might exhaust the memory."""
    depth, start = 0, 0
    for token in STRUCTURE.finditer(array):
        mark = token[0]
        if mark in {"[", "{"}:
            depth += 1
            if depth == 1:
                start = token.end()
        elif (mark == "," and depth == 1) or (mark == "]" and depth == 1):
            element = array[start : token.start()].strip()
            if element:
                yield msgspec.Raw(element)
            start = token.end()
        if mark in {"]", "}"}:
            depth -= 1


def malformed(error: Exception, text: str) -> MalformedJSONError:
    """The error that tells a client where ``text`` is not JSON, made from the decoder's own error."""
    if isinstance(error, RecursionError):
        return MalformedJSONError("nested too deeply", too_deep_at(text, MAX_DEPTH))
    reason = str(error).removeprefix("JSON is malformed: ")
    found = _OFFSET.search(reason)
    if found is None:
        return MalformedJSONError("unexpected end of input", len(text.encode()))
    return MalformedJSONError(reason[: found.start()].strip(), int(found[1]))
