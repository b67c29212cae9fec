"""The calls of a load: what is sent and how its answer is checked. Knows no load generator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from random import Random
from typing import NamedTuple

import msgspec

from stress.checks import check_refusal, check_report, check_scores
from stress.dataset import Dataset
from stress.service import ServedModel

__all__ = [
    "BATCH", "KINDS", "MALFORMED", "ONE_ROW", "REFUSED", "REPORTED", "WHOLE_FILE", "Call", "CallMaker",
]  # fmt: skip

ONE_ROW = "one row"
BATCH = "batch"
WHOLE_FILE = "whole file"
REFUSED = "bad row, refused"
REPORTED = "bad row, reported"
MALFORMED = "malformed"
KINDS = (ONE_ROW, BATCH, WHOLE_FILE, REFUSED, REPORTED, MALFORMED)

_PREDICT = "/predict"
_NOT_NUMBERS: Sequence[object] = ("abc", True, [1])
_NOT_CATEGORIES: Sequence[object] = (["a"], {})


class Call(NamedTuple):
    """One POST request, with the numbers of the rows that must be scored.

    ``check`` receives the status and body of the answer and raises WrongAnswerError.
    """

    kind: str
    path: str
    body: bytes
    rows: Sequence[int]
    check: Callable[[int, bytes], None]


class _SpoiltRows(NamedTuple):
    """Rows of which the one at ``place`` must be refused with the error ``code``."""

    rows: Sequence[int]
    body: bytes
    place: int
    code: str


class CallMaker:
    """Draws random calls; the same seed draws the same calls.

    Args:
        dataset: the rows to send.
        served: names the columns in which a row can be spoilt.
        batch_rows: the smallest and the largest number of rows of a batch.
        mix: the weight of each kind of call.
        random: the source of randomness.
    """

    def __init__(
        self, dataset: Dataset, served: ServedModel, batch_rows: tuple[int, int], mix: Mapping[str, float], random: Random
    ) -> None:
        self._dataset = dataset
        self._expected = dataset.expected
        self._batch_rows = batch_rows
        self._kinds, self._weights = list(mix), list(mix.values())
        self._random = random
        used = served.used_columns()
        numbers = [column.name for column in used if column.kind != "categorical"]
        categories = [column.name for column in used if column.kind == "categorical"]
        self._names = numbers + categories
        self._wrong_cells: list[tuple[str, str, object]] = [
            *(("not_a_number", name, wrong) for name in numbers for wrong in _NOT_NUMBERS),
            *(("not_a_category", name, wrong) for name in categories for wrong in _NOT_CATEGORIES),
        ]
        self._makers = {
            ONE_ROW: lambda: self.scored(ONE_ROW, self._draw(1)),
            BATCH: lambda: self.scored(BATCH, self._draw_batch()),
            WHOLE_FILE: lambda: self.scored(WHOLE_FILE, range(len(dataset.rows))),
            REFUSED: self._refused,
            REPORTED: self._reported,
            MALFORMED: self._malformed,
        }

    def next_call(self) -> Call:
        """The next call of the mix."""
        (kind,) = self._random.choices(self._kinds, self._weights)
        return self._makers[kind]()

    def scored(self, kind: str, rows: Sequence[int]) -> Call:
        """A call of good rows, given by their numbers."""
        check = partial(check_scores, rows=rows, expected=self._expected)
        return Call(kind, _PREDICT, self._dataset.content if kind == WHOLE_FILE else self._body(rows), rows, check)

    def _body(self, rows: Sequence[int]) -> bytes:
        return _array([self._dataset.rows[row] for row in rows])

    def _refused(self) -> Call:
        made = self._with_a_bad_row()
        return Call(REFUSED, _PREDICT, made.body, (), partial(check_refusal, wanted=422, code=made.code, place=made.place))

    def _reported(self) -> Call:
        made = self._with_a_bad_row()
        check = partial(check_report, rows=made.rows, bad={made.place: made.code}, expected=self._expected)
        good = [row for place, row in enumerate(made.rows) if place != made.place]
        return Call(REPORTED, f"{_PREDICT}?on_error=report", made.body, good, check)

    def _malformed(self) -> Call:
        body = self._body(self._draw_batch())[:-2]  # "}" and "]" are missing
        return Call(MALFORMED, _PREDICT, body, (), partial(check_refusal, wanted=400, code="malformed_json", place=None))

    def _draw(self, count: int) -> list[int]:
        return self._random.choices(range(len(self._dataset.rows)), k=count)

    def _draw_batch(self) -> list[int]:
        return self._draw(self._random.randint(*self._batch_rows))

    def _with_a_bad_row(self) -> _SpoiltRows:
        rows = self._draw_batch()
        place = self._random.randrange(len(rows))
        parts = [self._dataset.rows[row] for row in rows]
        parts[place], code = self._spoil(parts[place])
        return _SpoiltRows(rows, _array(parts), place, code)

    def _spoil(self, row: bytes) -> tuple[bytes, str]:
        code = self._random.choice(["not_an_object", "missing_field", "wrong_cell"])
        if code == "not_an_object":
            return b"7", code
        cells = msgspec.json.decode(row, type=dict[str, object])
        if code == "missing_field":
            del cells[self._random.choice(self._names)]
        else:
            code, name, cells[name] = self._random.choice(self._wrong_cells)
        return msgspec.json.encode(cells), code


def _array(rows: Sequence[bytes]) -> bytes:
    return b"[" + b",".join(rows) + b"]"
