"""Scoring one piece of a file: what a worker does.

Rows are read, encoded and scored by the code of a request, so a row's answer is the same to the last bit. A worker holds one
piece at a time, so its memory does not grow with the file. Knows no Ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from serve_app.components.compiled import Components
from serve_app.offline.answer_writers import Cell, LinesWriter, answers_writer, columns_of
from serve_app.offline.pieces import Format, JSONValue, Numbered, Piece, Record, file_system, records
from serve_app.offline.read_rows import ROWS_AT_ONCE, Problem, batches, read_rows
from serve_app.offline.run_folder import PieceResult, note_done
from serve_app.scoring.arrays import Array
from serve_app.scoring.cells import cell_text
from serve_app.scoring.scorers import predicted_class_indices

__all__ = ["score_piece"]


class _RefusedRow(msgspec.Struct, frozen=True):
    """A line of ``_refused/*.jsonl``."""

    file: str
    row: int
    problems: list[Problem]


def score_piece(  # noqa: PLR0913 - a piece, where it is, and how its answers are written
    piece: Piece, source: str, out: str, components: Components, *, form: Format, keep: Sequence[str]
) -> PieceResult:
    """Scores a piece; writes ``part-….<form>``, and ``_refused/….jsonl`` if rows are refused, then notes it in ``_done``.

    An answer holds its row's file and number, the columns to keep as strings, ``probability_positiveclass`` (with three or more
    classes a ``probability_<class>`` each), ``probability_predictedclass`` and ``predicted_class``. A refused row holds its
    file and number, and all its problems.
    """
    manifest = components.manifest
    system, _ = file_system(source)
    out_system, folder = file_system(out)
    parser = components.parser(max_rows=ROWS_AT_ONCE)
    columns = list(dict.fromkeys([*manifest.selected_features, *keep]))
    rows = scored = refused = 0
    with (
        answers_writer(form, out_system, f"{folder}/part-{piece.name}.{form}", columns_of(components, keep)) as answers,
        LinesWriter(out_system, f"{folder}/_refused/{piece.name}.jsonl") as bad,
    ):
        for some in batches(records(system, piece, columns)):
            values, problems = read_rows(parser, [record for _, record in some])
            good = [one for index, one in enumerate(some) if index not in problems]
            if good:
                probabilities = components.score(values)
                answers.write_columns(_answers(components, piece, good, keep, probabilities))
            bad.write(
                _RefusedRow(piece.path, number, problems[index]) for index, (number, _) in enumerate(some) if index in problems
            )
            rows += len(some)
            scored += len(good)
            refused += len(problems)
    result = PieceResult(piece.name, rows, scored, refused)
    note_done(out_system, folder, result)
    return result


def _answers(
    components: Components, piece: Piece, rows: Sequence[Numbered], keep: Sequence[str], probabilities: Array
) -> dict[str, Sequence[Cell]]:
    """The answers by column."""
    manifest = components.manifest
    indices = predicted_class_indices(probabilities, manifest.threshold)
    shown = probabilities[:, 1:] if len(manifest.classes) == 2 else probabilities
    kept = [_cells(record) for _, record in rows] if keep else []
    contents: list[Sequence[Cell]] = [
        [piece.path] * len(rows),
        [number for number, _ in rows],
        *([_kept_text(cells.get(name)) for cells in kept] for name in keep),
        *shown.T.tolist(),
        probabilities[np.arange(len(rows)), indices].tolist(),
        [manifest.classes[index] for index in indices.tolist()],
    ]
    return dict(zip(columns_of(components, keep), contents, strict=True))


def _cells(record: Record) -> dict[str, JSONValue]:
    """The cells of a good row, by column."""
    return record if isinstance(record, dict) else msgspec.json.decode(record, type=dict[str, Any])


def _kept_text(cell: JSONValue) -> str | None:
    """A cell as a string, an array or object as JSON; None if it is missing."""
    nested = isinstance(cell, (list, dict))
    return (msgspec.json.encode(cell).decode() if nested else cell_text(cell)) or None
