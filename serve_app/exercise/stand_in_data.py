"""A stand-in for the exercise's data, which is not public: ``train.csv`` and ``test.json``, the same for the same seed.

Owns what the stand-in looks like. The columns, their kinds, levels, means and standard deviations are the published ones. The
target is drawn from the published coefficients, which are therefore the true model of the table. What was not published (the
shape of each distribution, the shares of levels) is chosen by the rules below.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TextIO, TypeAlias

import numpy as np

from serve_app.atomic_files import replacing
from serve_app.components.compiled import Components, compile_draft
from serve_app.exercise.published_model import PublishedModel, draft_reference, load_published_model
from serve_app.scoring.arrays import Array
from serve_app.scoring.schema import Column, Feature

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["StandIn", "generate"]

_NULL_SHARE = 0.03
_STRING_SHARE = 0.01  # of the plain numbers, which are then spelled as strings
_RARE_LEVELS = {"x31_japan": 0.07}
"""The share of each level that is rarer than the others of its column, by the name of its feature.

The shares were not published; the standard errors imply them: .062 for japan, .033 for asia and germany. The variance of a
level's coefficient is proportional to 1 / share or, if the baseline is uncertain too, to 1 / share + 1 / share(baseline). By
the first, japan is (.062 / .033)² = 3.5 times as rare as each other level (8.6 % of the rows); by the second 6.1 times (5.2 %).
"""
_ROWS_PER_BLOCK = 1000

Cell: TypeAlias = float | str | None
"""The JSON value of a field."""


@dataclass(frozen=True)
class StandIn:
    """The files that were written; ``positive_share`` is that of the training table."""

    train: Path
    test: Path
    positive_share: float


class _Sample(NamedTuple):
    """Rows before they are written as cells.

    ``values`` has shape (rows, columns): numbers, positions of levels, NaN for null; ``target`` has shape (rows,).
    """

    values: Array
    target: NDArray[np.bool_]


def generate(
    folder: Path,
    *,
    seed: int = 26,
    train_rows: int = 40_000,
    test_rows: int = 10_000,
    advance: Callable[[int], None] | None = None,
) -> StandIn:
    """Writes ``train.csv`` (the target last) and ``test.json`` (an array of row objects, without it) into ``folder``.

    A null is an empty cell or ``null``; strings are quoted in both files. Each file appears whole or not at all. ``advance`` is
    called with the number of rows just written.
    """
    published = load_published_model()
    model = compile_draft(draft_reference(published))
    # Two streams, so that the rows of one file do not depend on the number of rows in the other.
    for_train, for_test = np.random.default_rng(seed).spawn(2)
    train_path, test_path = folder / "train.csv", folder / "test.json"
    folder.mkdir(parents=True, exist_ok=True)

    train = _draw_sample(for_train, published, model, train_rows)
    with replacing(train_path) as file:
        _write_csv(file, published, train, _spell(for_train, published, train.values, advance))
    test = _draw_sample(for_test, published, model, test_rows)
    with replacing(test_path) as file:
        _write_json(file, published, _spell(for_test, published, test.values, advance))
    return StandIn(train_path, test_path, positive_share=float(train.target.mean()))


def _draw_sample(random: np.random.Generator, published: PublishedModel, model: Components, rows: int) -> _Sample:
    columns = published.schema().columns
    values = np.column_stack([_draw_column(random, published, column, rows) for column in columns])
    # Scored as the rows of a request are: nulls imputed, a missing category as the baseline.
    selected = [columns.index(column) for column in model.encoder.columns]
    probabilities = model.score(values[:, selected])
    return _Sample(values, random.random(rows) < probabilities[:, 1])


def _draw_column(random: np.random.Generator, published: PublishedModel, column: Column, rows: int) -> Array:
    values = np.full(rows, np.nan)
    is_given = random.random(rows) >= _NULL_SHARE
    count = int(is_given.sum())
    if column.is_categorical:
        values[is_given] = random.choice(len(column.levels), size=count, p=_level_shares(column))
    else:
        moments = published.numeric[column.name]
        values[is_given] = _draw_numbers(random, count, moments.mean, moments.std, _decimals(column, moments.std))
    return values


def _level_shares(column: Column) -> list[float]:
    """Equal shares, except for the rare levels."""
    rare = [_RARE_LEVELS.get(Feature(column.name, level).name) for level in column.levels]
    rest = (1.0 - sum(share for share in rare if share is not None)) / rare.count(None)
    return [rest if share is None else share for share in rare]


def _draw_numbers(random: np.random.Generator, count: int, mean: float, std: float, decimals: int) -> Array:
    """Numbers whose mean and standard deviation are exactly ``mean`` and ``std``, except for rounding.

    Most of the published standard deviations are those of a uniform distribution over a round width (0.2887 is 1 / √12,
    5,775 is 20,000 / √12); those close to 1, 10, 100 and 1,000 look normal.
    """
    magnitude = math.log10(std)
    looks_normal = abs(magnitude - round(magnitude)) < 0.02
    drawn = random.standard_normal(count) if looks_normal else random.uniform(-1.0, 1.0, count)
    if count > 1:
        drawn = (drawn - drawn.mean()) / drawn.std()
    return np.round(mean + std * drawn, decimals) + 0.0  # no negative zero


def _decimals(column: Column, std: float) -> int:
    """Two decimals for money and percent; for plain numbers, enough for about six significant digits."""
    return 2 if column.kind != "numeric" else max(2, 5 - math.floor(math.log10(std)))


def _spell(
    random: np.random.Generator,
    published: PublishedModel,
    values: Array,
    advance: Callable[[int], None] | None,
) -> Iterator[Sequence[Cell]]:
    """The rows as JSON values, one by one."""
    columns = published.schema().columns
    for start in range(0, len(values), _ROWS_PER_BLOCK):
        block = values[start : start + _ROWS_PER_BLOCK]
        whims = random.random(block.shape)
        cells = [_spell_column(column, block[:, at], whims[:, at]) for at, column in enumerate(columns)]
        yield from zip(*cells, strict=True)
        if advance is not None:
            advance(len(block))


def _spell_column(column: Column, values: Array, whims: Array) -> list[Cell]:
    """The cells of one column; a whim, uniform in [0, 1), chooses between spellings of the same value."""
    pairs = zip(values.tolist(), whims.tolist(), strict=True)
    return [None if math.isnan(value) else _spell_cell(column, value, whim) for value, whim in pairs]


def _spell_cell(column: Column, value: float, whim: float) -> Cell:
    if column.kind == "categorical":
        return column.levels[int(value)]
    if column.kind == "money":
        return _spell_money(value, in_brackets=whim < 0.5)
    if column.kind == "percent":
        return f"{value:.2f}%"
    return str(value) if whim < _STRING_SHARE else value


def _spell_money(value: float, *, in_brackets: bool) -> str:
    if value < 0 and in_brackets:
        return f"(${-value:,.2f})"
    return f"${value:,.2f}"


def _write_csv(file: TextIO, published: PublishedModel, sample: _Sample, rows: Iterable[Sequence[Cell]]) -> None:
    file.write(",".join([*published.columns, published.target]) + "\n")
    targets = sample.target.tolist()
    file.writelines(f"{','.join(map(_csv_cell, cells))},{y:d}\n" for cells, y in zip(rows, targets, strict=True))


def _csv_cell(cell: Cell) -> str:
    if cell is None:
        return ""
    return f'"{cell}"' if isinstance(cell, str) else str(cell)


def _write_json(file: TextIO, published: PublishedModel, rows: Iterable[Sequence[Cell]]) -> None:
    separator = "[\n"
    for cells in rows:
        file.write(separator + json.dumps(dict(zip(published.columns, cells, strict=True))))
        separator = ",\n"
    file.write("\n]\n")
