"""Which character separates the cells of a CSV file: told by its first lines, the same for training and for scoring files."""

from __future__ import annotations

import csv
import re
from itertools import islice

__all__ = ["SEPARATORS", "find_separator"]

SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
"""Those that are found, with their names in a sentence."""
_LINES = 100
_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+")


def find_separator(text: str) -> str:
    """The separator that cuts the most of the first 100 lines into as many cells as the header.

    Of several, one that leaves no quote within the header, then the one of the most cells; a comma if none cuts the header.
    """
    lines = _LINE.findall(text)
    best, found = (0, False, 0), ","
    for separator in SEPARATORS:
        try:
            rows = [cells for cells in islice(csv.reader(lines, delimiter=separator), _LINES) if cells]
        except csv.Error:
            continue
        if not rows or len(rows[0]) == 1:
            continue
        fitting = sum(len(cells) == len(rows[0]) for cells in rows)
        rank = (fitting, not any('"' in cell for cell in rows[0]), len(rows[0]))
        if rank > best:
            best, found = rank, separator
    return found
