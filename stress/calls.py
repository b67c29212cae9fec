"""The calls that a load is made of: what is sent, and what is to be made of the answer. Knows no load generator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import msgspec

from stress.checks import check_refusal, check_report, check_scores
from stress.dataset import Dataset
from stress.service import ServedModel

__all__ = ["BATCH", "KINDS", "MALFORMED", "ONE_ROW", "REFUSED", "REPORTED", "WHOLE_FILE", "Call", "CallMaker"]

ONE_ROW = "one row"
BATCH = "batch"
WHOLE_FILE = "whole file"
REFUSED = "bad row, refused"
REPORTED = "bad row, reported"
MALFORMED = "malformed"
KINDS = (ONE_ROW, BATCH, WHOLE_FILE, REFUSED, REPORTED, MALFORMED)

_PREDICT = "/predict"
_NO_NUMBERS: tuple[Any, ...] = ("abc", True, [1])
_NO_CATEGORIES: tuple[Any, ...] = (["a"], {})


@dataclass(frozen=True)
class Call:
    """One POST. ``check`` takes the status and the body of its answer, and raises WrongAnswerError."""

    kind: str
    path: str
    body: bytes
    rows: int
    check: Callable[[int, bytes], None]


class CallMaker:
    """Draws calls at random, the same for the same seed.

    Args:
        dataset: the rows to send.
        served: tells which columns a row can be spoilt in.
        batch_rows: the fewest and the most rows of a batch.
        mix: the weight of each kind of call.
        random: draws the rows.
    """

    def __init__(
        self, dataset: Dataset, served: ServedModel, batch_rows: tuple[int, int], mix: Mapping[str, float], random: Random
    ) -> None:
        self._dataset = dataset
        self._expected = dataset.expected
        self._batch_rows = batch_rows
        self._kinds, self._weights = list(mix), list(mix.values())
        self._random = random
        self._whole_file = range(len(dataset.rows))
        used = served.used_columns()
        self._numbers = [column.name for column in used if column.kind != "categorical"]
        self._categories = [column.name for column in used if column.kind == "categorical"]
        self._makers = {
            ONE_ROW: self._one_row,
            BATCH: self._batch,
            WHOLE_FILE: self._all_rows,
            REFUSED: self._refused,
            REPORTED: self._reported,
            MALFORMED: self._malformed,
        }

    def next_call(self) -> Call:
        """The next call of the mix."""
        (kind,) = self._random.choices(self._kinds, self._weights)
        return self._makers[kind]()

    def _one_row(self) -> Call:
        return self._scored(ONE_ROW, self._draw(1))

    def _batch(self) -> Call:
        return self._scored(BATCH, self._draw(self._draw_size()))

    def _scored(self, kind: str, rows: Sequence[int]) -> Call:
        body = _array([self._dataset.rows[row] for row in rows])
        return Call(kind, _PREDICT, body, len(rows), partial(check_scores, rows=rows, expected=self._expected))

    def _all_rows(self) -> Call:
        rows = self._whole_file
        check = partial(check_scores, rows=rows, expected=self._expected)
        return Call(WHOLE_FILE, _PREDICT, self._dataset.content, len(rows), check)

    def _refused(self) -> Call:
        _, body, place, code = self._with_a_bad_row()
        return Call(REFUSED, _PREDICT, body, 0, partial(check_refusal, wanted=422, code=code, place=place))

    def _reported(self) -> Call:
        rows, body, place, code = self._with_a_bad_row()
        check = partial(check_report, rows=rows, bad={place: code}, expected=self._expected)
        return Call(REPORTED, f"{_PREDICT}?on_error=report", body, len(rows) - 1, check)

    def _malformed(self) -> Call:
        body = _array([self._dataset.rows[row] for row in self._draw(self._draw_size())])[:-2]  # "}" and "]"
        return Call(MALFORMED, _PREDICT, body, 0, partial(check_refusal, wanted=400, code="malformed_json", place=None))

    def _draw_size(self) -> int:
        return self._random.randint(*self._batch_rows)

    def _draw(self, count: int) -> list[int]:
        return self._random.choices(self._whole_file, k=count)

    def _with_a_bad_row(self) -> tuple[list[int], bytes, int, str]:
        """Rows, the body that holds them, the place of the one that was spoilt, and the error that it must get."""
        rows = self._draw(self._draw_size())
        place = self._random.randrange(len(rows))
        parts = [self._dataset.rows[row] for row in rows]
        spoilt, code = self._spoil(msgspec.json.decode(parts[place]))
        parts[place] = msgspec.json.encode(spoilt)
        return rows, _array(parts), place, code

    def _spoil(self, row: dict[str, Any]) -> tuple[Any, str]:
        cells: list[tuple[str, str, Any]] = [
            *(("not_a_number", name, wrong) for name in self._numbers for wrong in _NO_NUMBERS),
            *(("not_a_category", name, wrong) for name in self._categories for wrong in _NO_CATEGORIES),
        ]
        way = self._random.choice(["not_an_object", "missing_field", "wrong_cell"])
        if way == "not_an_object":
            return 7, way
        if way == "missing_field":
            del row[self._random.choice(self._numbers + self._categories)]
            return row, way
        code, name, wrong = self._random.choice(cells)
        row[name] = wrong
        return row, code


def _array(rows: Sequence[bytes]) -> bytes:
    return b"[" + b",".join(rows) + b"]"
