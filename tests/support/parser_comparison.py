"""Compares RowParser with the reference reading: refusals, values bit for bit, the code of every problem and warning."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

import msgspec
import numpy as np
from numpy.typing import NDArray
from support.reference_rows import Expected, ReferenceReader, is_strict_json
from support.request_grammar import Grammar

from serve_app.components.compiled import Components
from serve_app.components.loading import load_components
from serve_app.config import PROJECT_ROOT
from serve_app.errors import MalformedJSONError, NotRowsError, TooManyRowsError
from serve_app.scoring.rows import RowChunk, RowParser
from serve_app.scoring.schema import Column

__all__ = ["EVERY_KIND", "ParserComparison", "Shard", "compare_shard", "minimised", "published_columns"]

MAX_ROWS, MAX_TEXT_CHARACTERS, MAX_NESTING = 50, 1000, 32
MERGED_BODIES = 200
COMPONENTS = PROJECT_ROOT / "model_components"

REFUSALS = {MalformedJSONError: "malformed", NotRowsError: "not_rows", TooManyRowsError: "too_many_rows"}

EVERY_KIND = (
    Column("n", "numeric"),
    Column("n!", "numeric", null="reject"),
    Column("€", "money"),
    Column("a b", "percent", null="reject"),
    Column("is it", "boolean"),
    Column("day", "date"),
    Column("c", "categorical", levels=("red", "Grün", "1", "true")),
    Column("c!", "categorical", levels=("x", "y"), null="reject", unknown="reject"),
)
"""Columns of each kind and policy."""


def published_columns(components: Components) -> Sequence[Column]:
    """The columns that a row of the published model must have."""
    return components.parser(max_rows=1).columns


class ParserComparison:
    """A parser and a reference reader with the same limits."""

    def __init__(self, columns: Sequence[Column], max_magnitude: float) -> None:
        limits = {"max_rows": MAX_ROWS, "max_text_characters": MAX_TEXT_CHARACTERS, "max_nesting": MAX_NESTING}
        self._columns = len(columns)
        self._parser = RowParser(columns, max_magnitude=max_magnitude, **limits)
        self._reference = ReferenceReader(columns, max_magnitude=max_magnitude, **limits)

    def compare(self, body: bytes) -> tuple[str, Expected, NDArray[np.float64]]:
        """The difference between the two readings, the expected one, and the parser's values.

        The difference is empty if they agree, and starts with its kind otherwise.
        """
        expected = self._reference.read(body)
        values = np.empty((0, self._columns))
        try:
            chunks = list(self._parser.chunks(body))
        except (MalformedJSONError, NotRowsError, TooManyRowsError) as error:
            is_inside = not isinstance(error, MalformedJSONError) or 0 <= error.offset <= len(body)
            is_right = expected.refusal == REFUSALS[type(error)] and is_inside
            return ("" if is_right else f"refused: {error}"), expected, values
        if expected.refusal:
            return f"not refused: {expected.refusal}", expected, values
        values = np.concatenate([chunk.values for chunk in chunks])
        return self._difference(chunks, values, expected), expected, values

    def _difference(self, chunks: Sequence[RowChunk], values: NDArray[np.float64], expected: Expected) -> str:
        problems = [(one.row, one.field, one.code) for chunk in chunks for one in chunk.problems]
        warnings = [(one.row, one.field, one.code) for chunk in chunks for one in chunk.warnings]
        wanted = np.array(expected.values, dtype=np.float64).reshape(-1, self._columns)
        if sum(chunk.rows for chunk in chunks) != expected.rows:
            return "rows: another number"
        if problems != expected.problems:
            return f"problems: {problems}"
        if sorted(warnings, key=str) != sorted(expected.warnings, key=str):
            return f"warnings: {warnings}"
        return "" if _same_bits(values, wanted) else f"values: {values.tolist()}"

    def minimised(self, body: bytes) -> bytes:
        """A shorter body with the same kind of difference."""
        kind = self.compare(body)[0].partition(":")[0]
        return minimised(body, lambda shorter: self.compare(shorter)[0].partition(":")[0] == kind)


def _same_bits(found: NDArray[np.float64], wanted: NDArray[np.float64]) -> bool:
    """Whether all are equal bit for bit; every NaN is a missing value."""
    if found.shape != wanted.shape:
        return False
    missing = np.isnan(wanted)
    return bool((np.isnan(found) == missing).all()) and found[~missing].tobytes() == wanted[~missing].tobytes()


def minimised(body: bytes, fails: Callable[[bytes], bool]) -> bytes:
    """A body that still fails, without the rows, fields and bytes that it can lose; tries large parts first."""
    with contextlib.suppress(msgspec.MsgspecError, RecursionError):
        body = next((bytes(row) for row in msgspec.json.decode(body, type=list[msgspec.Raw]) if fails(bytes(row))), body)
    with contextlib.suppress(msgspec.MsgspecError, RecursionError):
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        for name in list(fields):
            fewer = {other: value for other, value in fields.items() if other != name}
            fields = fewer if fails(msgspec.json.encode(fewer)) else fields
        body = msgspec.json.encode(fields) if fails(msgspec.json.encode(fields)) else body
    size = max(1, len(body) // 2)
    while size:
        at = 0
        while at < len(body):
            shorter = body[:at] + body[at + size :]
            if fails(shorter):
                body = shorter
            else:
                at += size
        size //= 2
    return body


@dataclass
class Shard:
    """A part of the inputs, and what became of them."""

    seed: int
    inputs: int
    outcomes: Counter[str] = field(default_factory=Counter)
    well_formed: int = 0
    rows: int = 0
    differences: list[tuple[str, bytes]] = field(default_factory=list)


def compare_shard(shard: Shard) -> Shard:
    """Compares both readings for half of the inputs with the published columns, for the other half with every kind.

    The published model also scores all good rows: each body by itself, and many merged, which must be equal bit for bit.
    """
    random = Random(shard.seed)
    components = load_components(COMPONENTS)
    published = published_columns(components)
    _compare(shard, random, EVERY_KIND, ParserComparison(EVERY_KIND, 1e300), None)
    _compare(shard, random, published, ParserComparison(published, components.encoder.max_magnitude), components)
    return shard


def _compare(
    shard: Shard, random: Random, columns: Sequence[Column], comparison: ParserComparison, components: Components | None
) -> None:
    grammar = Grammar(columns)
    batch: list[NDArray[np.float64]] = []
    for _ in range(shard.inputs // 2):
        body = grammar.body(random)
        difference, expected, values = comparison.compare(body)
        if difference:
            shard.differences.append((difference, comparison.minimised(body)))
        is_well_formed = expected.refusal != "malformed" or is_strict_json(body)
        shard.outcomes[expected.refusal or ("some rows bad" if expected.problems else "all rows good")] += 1
        shard.well_formed += is_well_formed
        shard.rows += expected.rows
        if components is not None and len(values):
            batch.append(values)
            if len(batch) == MERGED_BODIES:
                if not _scores_the_same(components, batch):
                    shard.differences.append(("scores: other bits in a batch", body))
                batch = []


def _scores_the_same(components: Components, batch: Sequence[NDArray[np.float64]]) -> bool:
    """Whether each body gets the same finite probabilities by itself as in the batch."""
    alone = np.concatenate([components.score(values) for values in batch])
    merged = components.score(np.concatenate(batch))
    return bool(np.isfinite(merged).all()) and alone.tobytes() == merged.tobytes()
