"""What each column of a table is: inferred by rules, or as the user says.

The rows that the model is fitted to decide; an empty cell is a missing value in any column. The first rule that applies counts:

1. A correction by the user.
2. With fewer than two different values, the column is left out.
3. It is boolean if all its cells are true and false, yes and no, or t and f, in any case.
4. It is numeric, money or percent if all its cells are numbers in that grammar. But it is left out as an identifier if its
   numbers just count the rows: whole, all different, and with no more gaps than the held-back rows leave.
5. It is a date if all its cells are dates in ISO 8601.
6. If nearly all its cells fit one of these kinds, the table is refused: the others are probably mistakes.
7. It is left out as an identifier, or as free text, if its values are all different, or if there are more than 100 of them.
8. Otherwise it is categorical. Its levels are sorted, and the first is the baseline. A level of fewer than 5 rows is rare: it
   counts as unknown, unless unknown levels are refused.

Knows no file format and no model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import yaml

from serve_app.errors import SettingsError
from serve_app.scoring.cells import NotANumberError, excerpt
from serve_app.scoring.schema import READERS, Column, Kind, NullPolicy, Schema, UnknownPolicy
from serve_app.training.tables import Table, is_null

__all__ = ["MAX_LEVELS", "MIN_LEVEL_ROWS", "Correction", "Inferred", "infer_schema", "read_corrections"]

MAX_LEVELS = 100
MIN_LEVEL_ROWS = 5
_MISTAKES_SHARE = 0.05
_AS_TOLD = "as you said"
_PLAIN_KINDS: tuple[Kind, ...] = ("boolean", "numeric", "money", "percent", "date")
_INTEGER = re.compile(r"[+-]?\d{1,15}", re.ASCII)


class Correction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a user says about a column; None leaves it to the rules."""

    kind: Kind | Literal["leave_out"] | None = None
    null: NullPolicy | None = msgspec.field(default=None, name="missing")  # "null" as a YAML key would mean None
    unknown: UnknownPolicy | None = None
    null_tokens: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Inferred:
    """The columns that a model may use, and the reason why each other one is left out, by name."""

    schema: Schema
    left_out: Mapping[str, str]


def read_corrections(path: Path) -> dict[str, Correction]:
    """Corrections by column, from a YAML file.

    Each is a kind, ``leave_out``, or a mapping of ``kind``, ``missing``, ``unknown`` and ``null_tokens``.

    Raises:
        SettingsError: the file cannot be read, or holds anything else.
    """
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        corrections = msgspec.convert(said, dict[str, str | Correction])
        return {
            name: msgspec.convert({"kind": correction}, Correction) if isinstance(correction, str) else correction
            for name, correction in corrections.items()
        }
    except (OSError, UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError) as error:
        raise SettingsError(f"{path} cannot be used: {error}") from error


def infer_schema(  # noqa: PLR0913 - the user's choices
    table: Table,
    target: str,
    rows: Sequence[int],
    *,
    unknown: UnknownPolicy = "as_null",
    corrections: Mapping[str, Correction] | None = None,
    null_tokens: Sequence[str] = (),
) -> Inferred:
    """Infers the columns from the given rows, in which missing values are empty cells.

    ``null_tokens`` are strings that mean a missing value when the model is asked later.

    Raises:
        TableError: a column that is not left out cannot be read, a few cells of a column do not fit the kind of all the
            others, or no column is left.
        SettingsError: a correction names the target, or a column that the table does not have.
    """
    corrections = corrections or {}
    for name in corrections:
        if name == target or (name not in table.columns and name not in table.unreadable):
            reason = "it is the target" if name == target else f"{table.path} has no such column"
            raise SettingsError(f"the column {excerpt(name)} cannot be corrected: {reason}")
    columns: list[Column] = []
    left_out = {name: _AS_TOLD for name in table.unreadable if corrections.get(name, Correction()).kind == "leave_out"}
    for name, reason in table.unreadable.items():
        if name not in left_out:
            raise table.error(f"{reason}; leave the column out by --columns")
    for name, cells in table.columns.items():
        if name == target:
            continue
        correction = corrections.get(name, Correction())
        all_counts = Counter(map(cells.__getitem__, rows))
        counts = Counter({cell: count for cell, count in all_counts.items() if not is_null(cell)})
        found = _infer_column(table, name, counts, correction, correction.unknown or unknown)
        if isinstance(found, Column):
            tokens = null_tokens if correction.null_tokens is None else correction.null_tokens
            columns.append(msgspec.structs.replace(found, null_tokens=tuple(tokens)))
        else:
            left_out[name] = found
    if not columns:
        raise table.error("no column besides the target can be used")
    return Inferred(Schema(tuple(columns)), left_out)


def _infer_column(
    table: Table, name: str, counts: Counter[str], correction: Correction, unknown: UnknownPolicy
) -> Column | str:
    """What a column with these values (each with its number of rows) is, or the reason to leave it out."""
    if correction.kind == "leave_out":
        return _AS_TOLD
    if len(counts) < 2:
        return f"it holds only {excerpt(next(iter(counts)))}" if counts else "it is empty"
    null = correction.null or "impute"
    kind = correction.kind or _plain_kind(table, name, counts)
    if kind == "categorical" or kind is None:
        return _categorical(name, counts, null=null, unknown=unknown, is_corrected=kind is not None)
    if correction.kind is None and kind == "numeric" and _numbers_the_rows(counts):
        return "it numbers the rows: an identifier"
    return Column(name, kind, null=null)


def _plain_kind(table: Table, name: str, counts: Counter[str]) -> Kind | None:
    for kind in _PLAIN_KINDS:
        mistakes = [cell for cell in counts if not _is_readable(kind, cell)]
        if not mistakes:
            return kind
        if len(mistakes) <= _MISTAKES_SHARE * len(counts):
            what = {"boolean": "boolean", "date": "date"}.get(kind, "number")
            reason = f"{excerpt(mistakes[0])} is not a {what}, as nearly all other cells of the column are"
            raise table.cell_error(table.columns[name].index(mistakes[0]), name, reason)
    return None


def _categorical(
    name: str, counts: Counter[str], *, null: NullPolicy, unknown: UnknownPolicy, is_corrected: bool
) -> Column | str:
    if not is_corrected:
        if len(counts) > MAX_LEVELS:
            return f"it has {len(counts)} different values: an identifier, or free text"
        if len(counts) == counts.total():
            return "its values are all different: an identifier"
    levels = sorted(level for level, rows in counts.items() if rows >= MIN_LEVEL_ROWS or unknown == "reject")
    if len(levels) < 2:
        return f"fewer than two of its values appear in {MIN_LEVEL_ROWS} rows or more"
    return Column(name, "categorical", levels=tuple(levels), null=null, unknown=unknown)


def _is_readable(kind: Kind, cell: str) -> bool:
    try:
        READERS[kind](cell)
    except NotANumberError:
        return False
    return True


def _numbers_the_rows(counts: Counter[str]) -> bool:
    """Whether the cells are different whole numbers, with no more gaps than the held-back rows leave."""
    rows = counts.total()
    if len(counts) < rows or not all(_INTEGER.fullmatch(cell.strip()) for cell in counts):
        return False
    numbers = [int(cell) for cell in counts]
    return max(numbers) - min(numbers) < 1.5 * rows
