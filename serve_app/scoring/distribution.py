"""How the cells of each column and the scores of a model are distributed, in a few bins.

Owns what is kept of the training rows, so that later rows can be compared with them. The bins of a number lie between its
deciles, the bins of a category are its levels, and missing values have a bin of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from serve_app.scoring.arrays import Array
from serve_app.scoring.schema import Column

__all__ = ["QUANTILES", "Bins", "Distribution", "count_levels", "describe", "scores_of"]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_DECILES = np.arange(1, 10) / 10


class Bins(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The shares of the training rows in the bins of one column.

    A number has a bin up to and including each of ``edges``, and one beyond the last; a category has a bin for each of
    ``levels``. The last of ``shares`` is the share of missing values. ``quantiles`` are at the ranks ``QUANTILES``.
    """

    shares: tuple[float, ...]
    edges: tuple[float, ...] = ()
    levels: tuple[str, ...] = ()
    quantiles: tuple[float, ...] = ()


class Distribution(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The training rows: each column that the model uses, in the order of the values array, and the score.

    The score is the probability of the positive class; with three or more classes, of the predicted class.
    """

    rows: int
    columns: dict[str, Bins]
    score: Bins


def describe(columns: Sequence[Column], values: Array, scores: Array) -> Distribution:
    """The distribution of rows: values of shape (rows, columns), scores of shape (rows,)."""
    described = {
        column.name: _describe_levels(column, values[:, index])
        if column.is_categorical
        else _describe_numbers(values[:, index])
        for index, column in enumerate(columns)
    }
    return Distribution(len(values), described, _describe_numbers(scores))


def scores_of(probabilities: Array) -> Array:
    """The score of each row, shape (rows,), for probabilities of shape (rows, classes)."""
    return probabilities[:, 1] if probabilities.shape[1] == 2 else probabilities.max(axis=1)


def _describe_numbers(cells: Array) -> Bins:
    known = cells[~np.isnan(cells)]
    if not len(known):
        return Bins(shares=(0.0, 0.0, 1.0), edges=(0.0,))
    edges = np.unique(np.quantile(known, _DECILES, method="inverted_cdf"))
    counts = np.bincount(np.searchsorted(edges, known, side="left"), minlength=len(edges) + 1)
    shares = [*(counts / len(cells)).tolist(), 1 - len(known) / len(cells)]
    return Bins(tuple(shares), edges=tuple(edges.tolist()), quantiles=tuple(np.quantile(known, QUANTILES).tolist()))


def _describe_levels(column: Column, codes: Array) -> Bins:
    shares = count_levels(codes, len(column.levels)) / len(codes)
    return Bins(tuple(shares.tolist()), levels=column.levels)


def count_levels(codes: Array, levels: int) -> NDArray[np.int64]:
    """How many cells have each level, shape (levels + 1,); the last figure counts the missing cells."""
    places = np.where(np.isnan(codes), levels, codes).astype(np.intp)
    return np.bincount(places, minlength=levels + 1)
