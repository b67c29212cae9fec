"""CSV as people have it: its encoding and its separator, and its cells.

Owns both rules. The encoding is UTF-8, or UTF-16 or UTF-32 with a byte order mark, unless the user names one: nothing else can
be told from the bytes. The separator is found by the first lines, unless the user names one.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.errors import SettingsError
from serve_app.scoring.separators import SEPARATORS, find_separator

__all__ = ["CsvOptions", "UnreadableCsvError", "decode_csv", "read_csv"]

_NAMED_SEPARATORS = {"tab": "\t", r"\t": "\t", "comma": ",", "semicolon": ";", "bar": "|", "space": " "}
_HEAD_CHARACTERS = 64 * 1024
_MARKS = (  # UTF-32's starts with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class UnreadableCsvError(ValueError):
    """The message continues a sentence that starts with the file's name."""


@dataclass(frozen=True)
class CsvOptions:
    """``separator``: one character, or a name such as ``tab``; None: found. ``encoding``: as Python names it; None: UTF-8.

    Raises:
        SettingsError: one of them cannot be used.
    """

    separator: str | None = None
    encoding: str | None = None

    def __post_init__(self) -> None:
        if self.separator is not None:
            object.__setattr__(self, "separator", _NAMED_SEPARATORS.get(self.separator, self.separator))
            if len(str(self.separator)) != 1 or self.separator in {'"', "\n", "\r"}:
                raise SettingsError(f"the separator cannot be {self.separator!r}: it is one character, or tab")
        if self.encoding is not None:
            try:
                codecs.lookup(self.encoding)
            except LookupError:
                raise SettingsError(f"there is no encoding {self.encoding!r}; try latin-1, cp1252 or utf-16") from None


def read_csv(content: bytes, options: CsvOptions) -> tuple[list[str], list[Sequence[str]]]:
    """The header, and the cells of each column.

    Raises:
        UnreadableCsvError: it is not CSV, or not in its encoding, or its rows have different numbers of cells.
    """
    text, separator = decode_csv(content, options)
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    try:
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True) if line]
    except csv.Error as error:
        raise UnreadableCsvError(f"is not a CSV file: {error}") from error
    if not lines:
        return [], []
    header, *rows = lines
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            reason = f"row {number} has {len(row)} cells, the header has {len(header)}"
            hint = "" if options.separator else f"; if the separator is not {SEPARATORS[separator]}, name it by --separator"
            raise UnreadableCsvError(f"cannot be read: {reason}{hint}")
    return header, list(zip(*rows, strict=True)) if rows else [() for _ in header]


def decode_csv(content: bytes, options: CsvOptions) -> tuple[str, str]:
    """The text of a CSV file, and its separator.

    Raises:
        UnreadableCsvError: it is not in its encoding.
    """
    text = _decode(content, options.encoding)
    return text, options.separator or find_separator(text[: text.find("\n", _HEAD_CHARACTERS) + 1 or len(text)])


def _decode(content: bytes, encoding: str | None) -> str:
    found = next((name for mark, name in _MARKS if content.startswith(mark)), None)
    try:
        return content.decode(encoding or found or "utf-8-sig").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        if encoding is not None:
            raise UnreadableCsvError(f"is not in the encoding {encoding}: {error.reason} at byte {error.start}") from error
        hint = "name its encoding by --encoding, for example latin-1"
        raise UnreadableCsvError(f"is not a CSV file in UTF-8: {error.reason} at byte {error.start}; {hint}") from error
