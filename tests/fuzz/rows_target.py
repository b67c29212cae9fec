"""The target of atheris: bytes to rows and to answers, in one process, guided by the coverage of the code that reads them.

    python tests/fuzz/rows_target.py -runs=100000 tests/corpus

New inputs are mutations of earlier ones, or bodies of the grammar. Ends with an error at the first body that is not read as
by the reference, and at the first cell or gzip body that raises an unexpected error.
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

with atheris.instrument_imports(
    include=[
        "serve_app.scoring.rows",
        "serve_app.scoring.fast_rows",
        "serve_app.scoring.thorough_rows",
        "serve_app.scoring.cell_readers",
        "serve_app.scoring.cells",
        "serve_app.scoring.json_syntax",
        "serve_app.scoring.nesting",
        "serve_app.api.inflate",
    ]
):
    from serve_app.api.inflate import Inflater
    from serve_app.scoring import cells, rows

import numpy as np
from support.parser_comparison import COMPONENTS, ParserComparison, published_columns
from support.request_grammar import Grammar

from serve_app.components.loading import load_components
from serve_app.errors import BodyTooLargeError, MalformedGzipError

MODEL = load_components(COMPONENTS)
COLUMNS = published_columns(MODEL)
COMPARISON = ParserComparison(COLUMNS, MODEL.encoder.max_magnitude)
GRAMMAR = Grammar(COLUMNS)
READERS = (cells.read_number, cells.read_money, cells.read_percent)
MAX_INFLATED = 100_000
SHARE_OF_GRAMMAR = 0.4


def read_rows(body: bytes) -> None:
    """One input as the body of a request; all rows are scored together and alone."""
    difference, expected, values = COMPARISON.compare(body)
    assert difference == "", (difference, expected)
    matrix = MODEL.encoder.encode(values)
    scored = MODEL.scorer.score(matrix)
    assert np.isfinite(scored).all()
    for index in range(len(matrix)):
        assert (MODEL.scorer.score(matrix[index : index + 1])[0] == scored[index]).all()


def read_cell(text: str) -> None:
    """One input as the string of a number, of money and of percent."""
    for read in READERS:
        try:
            assert np.isfinite(read(text))
        except cells.NotANumberError as error:
            assert str(error).isprintable()
            assert len(str(error)) < 500


def inflate(body: bytes) -> None:
    """One input as a gzip body."""
    inflater, inflated = Inflater(MAX_INFLATED), 0
    try:
        for piece in inflater.pieces(body):
            inflated += len(piece)
        inflater.finish()
    except BodyTooLargeError:
        assert inflated <= MAX_INFLATED
    except MalformedGzipError as error:
        assert str(error).isprintable()


def one_input(data: bytes) -> None:
    """All readers of a client's bytes."""
    read_rows(data)
    read_cell(data.decode("utf-8", "replace"))
    inflate(data)


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """The next input: a body of the grammar, or libFuzzer's own mutation."""
    random = Random(seed)
    if random.random() < SHARE_OF_GRAMMAR:
        return GRAMMAR.body(random)[:max_size]
    return bytes(atheris.Mutate(data, max_size))


if __name__ == "__main__":
    assert rows.RowParser.__module__ == "serve_app.scoring.rows"
    atheris.Setup(sys.argv, one_input, custom_mutator=mutate)
    atheris.Fuzz()
