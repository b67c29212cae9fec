"""What atheris runs: bytes to rows and to answers, in one process, guided by coverage of the code that reads them.

    python tests/fuzz/rows_target.py -runs=100000 tests/corpus

Ends with an error at the first input that is neither rows nor a named refusal, that the standard library's JSON disagrees
about, or whose rows get other answers alone than together.
"""

from __future__ import annotations

import sys
from pathlib import Path

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
    from serve_app.api import inflate as compression
    from serve_app.scoring import cells, rows

import numpy as np
from support.strict_json import strictly_json

from serve_app.components.loading import load_components
from serve_app.config import PROJECT_ROOT, Limits
from serve_app.errors import BodyTooLargeError, MalformedGzipError, MalformedJSONError, NotRowsError, TooManyRowsError

LIMITS = Limits(max_rows=50)
COMPONENTS = load_components(PROJECT_ROOT / "model_components")
PARSER = COMPONENTS.parser(LIMITS.max_rows, max_text_characters=LIMITS.max_text_characters, max_nesting=LIMITS.max_nesting)
READERS = (cells.read_number, cells.read_money, cells.read_percent)


def read_rows(body: bytes) -> None:
    """One input as a request's body."""
    try:
        chunks = list(PARSER.chunks(body))
    except MalformedJSONError as error:
        assert 0 <= error.offset <= len(body)
        # What Python's json takes and we do not: half a surrogate pair, a byte order mark, depth.
        assert not strictly_json(body) or b"\\u" in body or "nested" in error.reason
        return
    except (NotRowsError, TooManyRowsError):
        assert strictly_json(body)
        return
    assert strictly_json(body)
    bad = {problem.row for chunk in chunks for problem in chunk.problems}
    values = np.concatenate([chunk.values for chunk in chunks])
    assert len(values) + len(bad) == sum(chunk.rows for chunk in chunks)
    scored = COMPONENTS.score(values)
    assert np.isfinite(scored).all()
    for index in range(len(values)):
        assert (COMPONENTS.score(values[index : index + 1])[0] == scored[index]).all()


def read_cell(text: str) -> None:
    """One input as the text of a number, of money and of percent."""
    for read in READERS:
        try:
            assert np.isfinite(read(text))
        except cells.NotANumberError as error:
            assert str(error).isprintable()
            assert len(str(error)) < 500


def inflate(body: bytes) -> None:
    """One input as a gzip body."""
    inflater, inflated = compression.Inflater(100_000), 0
    try:
        for piece in inflater.pieces(body):
            inflated += len(piece)
        inflater.finish()
    except BodyTooLargeError:
        assert inflated <= 100_000
    except MalformedGzipError as error:
        assert str(error).isprintable()


def one_input(data: bytes) -> None:
    """All that bytes of a client are given to."""
    read_rows(data)
    read_cell(data.decode("utf-8", "replace"))
    inflate(data)


if __name__ == "__main__":
    assert rows.RowParser.__module__ == "serve_app.scoring.rows"
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
