"""What clients of a model send and receive, and how that differs between two models.

Owns the comparison that lets a roll-out refuse a model of another table, whose clients would only get errors. Pure: knows no
replica and no file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from serve_app.components.manifest import Manifest, in_selected_order
from serve_app.scoring.schema import Column

__all__ = ["ClientSchema", "client_schema", "schema_changes"]

_MAX_LISTED_LEVELS = 5


class ClientSchema(msgspec.Struct, frozen=True):
    """The columns that a row must have, and the classes that an answer may name."""

    columns: tuple[Column, ...]
    classes: tuple[str, ...]


def client_schema(manifest: Manifest) -> ClientSchema:
    """The client's view of a model."""
    return ClientSchema(in_selected_order(manifest), tuple(map(str, manifest.classes)))


def schema_changes(before: ClientSchema, after: ClientSchema) -> list[str]:
    """What clients of ``before`` must change for ``after``, one line per column; empty if they can go on as they are.

    A column that is no longer needed is no change, because the service ignores additional columns.
    """
    known = {column.name: column for column in before.columns}
    lines = []
    for column in after.columns:
        if column.name not in known:
            lines.append(f"{column.name}: new; clients must send it ({column.kind})")
        elif differences := list(_differences(known[column.name], column)):
            lines.append(f"{column.name}: {'; '.join(differences)}")
    if before.classes != after.classes:
        lines.append(f"classes: {', '.join(before.classes)} becomes {', '.join(after.classes)}")
    return lines


def _differences(before: Column, after: Column) -> Iterator[str]:
    if before.kind != after.kind:
        yield f"{before.kind} becomes {after.kind}"
    elif before.is_categorical:
        added = [level for level in after.levels if level not in before.levels]
        removed = [level for level in before.levels if level not in after.levels]
        if added:
            yield f"new levels: {_listed(added)}"
        if removed:
            yield f"levels no longer known: {_listed(removed)}"
    if (before.null, after.null) == ("impute", "reject"):
        yield "nulls are refused"
    if (before.unknown, after.unknown) == ("as_null", "reject"):
        yield "unknown levels are refused"


def _listed(levels: Sequence[str]) -> str:
    rest = len(levels) - _MAX_LISTED_LEVELS
    listed = ", ".join(map(repr, levels[:_MAX_LISTED_LEVELS]))
    return f"{listed} and {rest} more" if rest > 0 else listed
