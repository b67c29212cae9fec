from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.bodies import BentoRows, Bodies, InferenceV2, RowObjects
from serve_app.scoring.schema import Column, Schema
from stress.dataset import Dataset, Expectations, ExpectedAnswer, Model

SCHEMA = Schema((Column("n", "numeric"), Column("m", "money"), Column("c", "categorical", levels=("a", "b"))))
ROWS = [b'{"n": 1.5, "m": "$2.00", "c": "a"}', b'{"n": null, "m": 3, "c": null}']


def test_row_objects_are_sent_byte_for_byte() -> None:
    assert RowObjects().encode(ROWS) == b"[" + b",".join(ROWS) + b"]"
    assert json.loads(BentoRows().encode(ROWS)) == {"rows": json.loads(RowObjects().encode(ROWS))}
    assert RowObjects().read_probabilities(b'[{"probability_positiveclass": 0.25, "predicted_class": 0}]') == [0.25]


def test_tensors_hold_the_same_cells_by_column() -> None:
    inputs = json.loads(InferenceV2(SCHEMA, "glm").encode(ROWS))["inputs"]
    assert [(tensor["name"], tensor["datatype"], tensor["data"]) for tensor in inputs] == [
        ("n", "FP64", [1.5, None]),
        ("m", "BYTES", ["$2.00", "3"]),
        ("c", "BYTES", ["a", ""]),
    ]
    assert all(tensor["shape"] == [2, 1] for tensor in inputs)


def test_a_tensors_answer_is_found_by_its_name() -> None:
    answer = {"outputs": [{"name": "other", "data": [1]}, {"name": "probability_positiveclass", "data": [0.5, 1]}]}
    assert InferenceV2(SCHEMA, "glm").read_probabilities(json.dumps(answer).encode()) == [0.5, 1.0]
    with pytest.raises(ValueError, match="no tensor"):
        InferenceV2(SCHEMA, "glm").read_probabilities(b'{"outputs": []}')


def dataset(count: int, space: str = "") -> Dataset:
    rows = [f'{{"n":{space}{number}}}'.encode() for number in range(count)]
    expected = Expectations(
        model=Model("glm", "1", "0"),
        rows_sha256="",
        classes=(0, 1),
        answers=tuple(ExpectedAnswer((1 - 1 / (number + 1), 1 / (number + 1)), 0) for number in range(count)),
    )
    return Dataset(Path("test.json"), b"", rows, expected)


def test_bodies_begin_again_when_the_rows_are_used_up(tmp_path: Path) -> None:
    bodies = Bodies(dataset(3), RowObjects(), tmp_path)
    assert [row["n"] for row in json.loads(bodies.one(7))] == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize(("rows", "lines"), [(1, 256), (100, 20), (2500, 1)])
def test_a_file_of_bodies_has_one_per_line(tmp_path: Path, rows: int, lines: int) -> None:
    bodies = [json.loads(line) for line in Bodies(dataset(2500), RowObjects(), tmp_path).file(rows).read_bytes().splitlines()]
    assert len(bodies) == lines
    assert {len(body) for body in bodies} == {rows}


def test_rows_are_sent_on_one_line_with_the_probabilities_that_are_expected(tmp_path: Path) -> None:
    bodies = Bodies(dataset(3, space="\n"), RowObjects(), tmp_path)
    assert all(b"\n" not in row for row in bodies.rows)
    assert np.array_equal(bodies.expected, [1.0, 1 / 2, 1 / 3])
