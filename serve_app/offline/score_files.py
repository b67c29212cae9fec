"""Scoring files: ``python -m serve_app score INPUT --output OUT``, on Ray Data.

Owns what a worker makes of a piece of a file, and the books: rows in are rows scored and rows refused. Rows, features and model
are read, made and asked by the very code of a request, so that a row's answer is the same to the last bit. What a worker holds
at a time is a piece, and does not grow with the file.

A piece's answers are one file (``part-….parquet``, ``.csv`` or ``.jsonl``),
its refused rows another (``_refused/….jsonl``), each of which appears whole or not at all; then it is noted in ``_done``.
Pieces that are done already are left out, so that a run that was stopped goes on where it was; ``_run.json`` makes sure that it
is the same run.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from serve_app.components.compiled import Components
from serve_app.components.loading import load_components
from serve_app.errors import FieldProblem, MalformedJSONError, RequestError, TableError
from serve_app.offline.answer_writers import LinesWriter, answers_writer, columns_of, write_whole
from serve_app.offline.pieces import PIECE_BYTES, Format, Numbered, Piece, Record, file_system, plan, records
from serve_app.scoring.arrays import Array, concatenate
from serve_app.scoring.cells import cell_text, excerpt
from serve_app.scoring.distribution import scores_of
from serve_app.scoring.drift_counts import Counts
from serve_app.scoring.rows import RowChunk, RowParser
from serve_app.scoring.scorers import predicted_class_indices

__all__ = ["PieceResult", "Totals", "count_files", "ray_for_files", "score_files", "score_piece"]

_ROWS_AT_ONCE = 4096
_OWN_RAY = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on systems where Ray makes no clusters its ports are on loopback: so be it here
    "RAY_worker_niceness": "0",  # rather than 15, behind whatever else runs on the machine
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anyone
}


class PieceResult(msgspec.Struct, frozen=True):
    """What became of a piece. ``rows`` = ``scored`` + ``refused``."""

    name: str
    rows: int
    scored: int
    refused: int


class Totals(msgspec.Struct, frozen=True):
    """What became of all; ``resumed`` counts the pieces that an earlier run had done."""

    pieces: int
    resumed: int
    rows: int
    scored: int
    refused: int


class _Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``_run.json``: of which model and pieces the answers in a folder are."""

    digest: str
    pieces_sha256: str
    format: Format
    keep: tuple[str, ...]


def score_files(  # noqa: PLR0913 - one keyword for each choice that a user has
    source: str,
    out: str,
    components: Path,
    *,
    form: Format = "parquet",
    keep: Sequence[str] = (),
    piece_bytes: int = PIECE_BYTES,
    advance: Callable[[PieceResult, int], None] = lambda _result, _of: None,
) -> Totals:
    """Scores all rows of ``source`` into the folder ``out``, on the Ray cluster that this process is connected to.

    Args:
        source: a file or a folder.
        out: a folder, which is made if it is not there; answers of the same run that are there already are kept.
        components: a folder of model components, at the same place on all machines.
        form: of the answers.
        keep: columns of the input that the answers repeat.
        piece_bytes: about how many bytes a worker reads at a time.
        advance: called for each piece that is done, with how many there are.

    Raises:
        TableError: the input cannot be read, ``out`` holds something else, or a column to keep is called as one of the
            answers is.
        ComponentsError: the components cannot be used.
    """
    import ray

    loaded = load_components(components)
    keep = _kept_columns(loaded, keep)
    pieces = plan(source, piece_bytes=piece_bytes)
    system, folder = file_system(out)
    system.create_dir(folder, recursive=True)
    _claim(system, folder, out, _run_of(loaded.digest, pieces, form, keep))
    done = _finished(system, folder)
    results = [result for piece in pieces if (result := done.get(piece.name)) is not None]
    for result in results:
        advance(result, len(pieces))
    todo = [piece for piece in pieces if piece.name not in done]
    if todo:
        work = _Work(source, out, str(components.resolve()), form, tuple(keep))
        data = ray.data.from_items([{"piece": msgspec.json.encode(piece)} for piece in todo], override_num_blocks=len(todo))
        for row in data.map(work, num_cpus=1).iter_rows():
            result = msgspec.json.decode(row["result"], type=PieceResult)
            results.append(result)
            advance(result, len(pieces))
    return Totals(
        pieces=len(pieces),
        resumed=len(pieces) - len(todo),
        rows=sum(result.rows for result in results),
        scored=sum(result.scored for result in results),
        refused=sum(result.refused for result in results),
    )


def count_files(source: str, components: Components) -> tuple[Counts, int]:
    """What drift is told from, of all rows of a file or a folder, and how many more were refused; without Ray.

    Raises:
        TableError: the input cannot be read, or the model's manifest does not tell how its training rows were distributed.
    """
    manifest = components.manifest
    if not manifest.distribution:
        raise TableError(f"{manifest.name} does not tell how its training rows were distributed")
    counts, refused = Counts(manifest.distribution), 0
    parser = components.parser(max_rows=_ROWS_AT_ONCE)
    system, _ = file_system(source)
    for piece in plan(source):
        for some in _batches(records(system, piece, manifest.selected_features)):
            values, problems = _read_rows(parser, [record for _, record in some])
            refused += len(problems)
            if len(values):
                counts.update(values, scores_of(components.score(values)))
    return counts, refused


@contextlib.contextmanager
def ray_for_files(address: str | None) -> Iterator[None]:
    """A connection to the Ray cluster at ``address``, or to a Ray of this machine's own that ends with the block."""
    if address is None:
        for name, value in _OWN_RAY.items():
            os.environ.setdefault(name, value)  # before Ray is imported: that is when it reads them
    import ray

    started = {"include_dashboard": False} if address is None else {}
    ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **started)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # there is one of ours
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


class _Work:
    """What Ray Data maps: runs in a worker, which loads the model once."""

    def __init__(self, source: str, out: str, components: str, form: Format, keep: tuple[str, ...]) -> None:
        self._source, self._out, self._components, self._form, self._keep = source, out, components, form, keep

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        piece = msgspec.json.decode(row["piece"], type=Piece)
        components = _loaded(self._components)
        result = score_piece(piece, self._source, self._out, components, form=self._form, keep=self._keep)
        return {"result": msgspec.json.encode(result)}


@lru_cache(maxsize=1)
def _loaded(folder: str) -> Components:
    return load_components(Path(folder))


def score_piece(  # noqa: PLR0913 - what a piece is, where it is, and how its answers shall be
    piece: Piece, source: str, out: str, components: Components, *, form: Format, keep: Sequence[str]
) -> PieceResult:
    """Scores one piece and writes its answers and its refused rows.

    An answer holds its row's file and number there, the columns to keep as text, ``probability_positiveclass`` (of three or
    more classes a ``probability_<class>`` each), ``probability_predictedclass`` and ``predicted_class``; what is refused its
    row's file and number, and all its problems.
    """
    manifest = components.manifest
    system, _ = file_system(source)
    out_system, folder = file_system(out)
    parser = components.parser(max_rows=_ROWS_AT_ONCE)
    columns = list(dict.fromkeys([*manifest.selected_features, *keep]))
    rows = scored = refused = 0
    with (
        answers_writer(form, out_system, f"{folder}/part-{piece.name}.{form}", columns_of(components, keep)) as answers,
        LinesWriter(out_system, f"{folder}/_refused/{piece.name}.jsonl") as bad,
    ):
        for some in _batches(records(system, piece, columns)):
            values, problems = _read_rows(parser, [record for _, record in some])
            probabilities = components.score(values) if len(values) else None
            good = [one for index, one in enumerate(some) if index not in problems]
            if probabilities is not None:
                answers.write_columns(_answers(components, piece, good, keep, probabilities))
            bad.write(
                {"file": piece.path, "row": number, "problems": problems[index]}
                for index, (number, _) in enumerate(some)
                if index in problems
            )
            rows += len(some)
            scored += len(good)
            refused += len(problems)
    result = PieceResult(piece.name, rows, scored, refused)
    write_whole(out_system, f"{folder}/_done/{piece.name}.json", msgspec.json.encode(result))
    return result


def _answers(
    components: Components, piece: Piece, rows: Sequence[Numbered], keep: Sequence[str], probabilities: Array
) -> dict[str, list[Any]]:
    """By column."""
    manifest = components.manifest
    indices = predicted_class_indices(probabilities, manifest.threshold)
    shown = probabilities[:, 1:] if len(manifest.classes) == 2 else probabilities
    decoded: list[Any] = (
        [msgspec.json.decode(record) if isinstance(record, bytes) else record for _, record in rows] if keep else []
    )
    contents = [
        [piece.path] * len(rows),
        [number for number, _ in rows],
        *([_kept_text(record.get(name)) for record in decoded] for name in keep),
        *shown.T.tolist(),
        probabilities[np.arange(len(rows)), indices].tolist(),
        [manifest.classes[index] for index in indices.tolist()],
    ]
    return dict(zip(columns_of(components, keep), contents, strict=True))


def _kept_columns(components: Components, keep: Sequence[str]) -> tuple[str, ...]:
    """The columns to keep, each once.

    Raises:
        TableError: the answers have one of that name themselves.
    """
    own = columns_of(components, ())
    for name in keep:
        if name in own:
            raise TableError(f"the column {excerpt(name)} cannot be kept: the answers have one of that name themselves")
    return tuple(dict.fromkeys(keep))


def _kept_text(cell: Any) -> str | None:
    """A cell as text, an array or object as that of JSON; None where there is nothing."""
    nested = isinstance(cell, (list, dict))
    return (msgspec.json.encode(cell).decode() if nested else cell_text(cell)) or None


def _read_rows(parser: RowParser, records: Sequence[Record]) -> tuple[Array, dict[int, list[dict[str, Any]]]]:
    """The values of the good rows, and what is wrong with the others by their position."""
    texts = [record if isinstance(record, bytes) else msgspec.json.encode(record) for record in records]
    try:
        chunks = list(parser.chunks(b"[" + b",".join(texts) + b"]"))
    except RequestError:
        chunks = []
    if sum(chunk.rows for chunk in chunks) != len(records):  # some line is no JSON, or more than one value: each by itself
        chunks = [_read_one(parser, row, text) for row, text in enumerate(texts)]
    problems: dict[int, list[dict[str, Any]]] = {}
    for chunk in chunks:
        for problem in chunk.problems:
            said = {"field": problem.field, "code": problem.code, "message": problem.message}
            problems.setdefault(problem.row, []).append(said)
    for row, record in enumerate(records):
        if isinstance(record, str):
            problems[row][0]["message"] = record  # rather than what a text in a row's place is told
    return concatenate([chunk.values for chunk in chunks]), problems


def _read_one(parser: RowParser, row: int, text: bytes) -> RowChunk:
    try:
        chunks = list(parser.chunks(b"[" + text + b"]"))
        if sum(chunk.rows for chunk in chunks) != 1:
            raise MalformedJSONError("a line is one value", 0)
    except RequestError as error:
        return RowChunk(np.empty((0, len(parser.columns))), 1, (FieldProblem(row, None, error.code, str(error)),), ())
    (chunk,) = chunks
    return chunk._replace(problems=[msgspec.structs.replace(problem, row=row) for problem in chunk.problems])


def _batches(records: Iterator[Numbered]) -> Iterator[list[Numbered]]:
    while some := list(itertools.islice(records, _ROWS_AT_ONCE)):
        yield some


def _run_of(digest: str, pieces: Sequence[Piece], form: Format, keep: Sequence[str]) -> _Run:
    return _Run(digest, hashlib.sha256(msgspec.json.encode(pieces)).hexdigest(), form, tuple(keep))


def _claim(system: Any, folder: str, out: str, run: _Run) -> None:
    """Makes sure that a folder is new, or that of the same run.

    Raises:
        TableError: it is neither.
    """
    from pyarrow.fs import FileSelector, FileType

    path = f"{folder}/_run.json"
    if system.get_file_info(path).type == FileType.File:
        with system.open_input_file(path) as file:
            if file.read() != msgspec.json.encode(run):
                reason = "another model, input or format, or a file has changed since"
                raise TableError(f"{out} holds the answers of another run: {reason}; name a new folder")
    elif system.get_file_info(FileSelector(folder)):
        raise TableError(f"{out} holds something else than answers; name a new folder")
    else:
        write_whole(system, path, msgspec.json.encode(run))


def _finished(system: Any, folder: str) -> dict[str, PieceResult]:
    from pyarrow.fs import FileSelector

    done = {}
    for file in system.get_file_info(FileSelector(f"{folder}/_done", allow_not_found=True)):
        if file.path.endswith(".json"):
            with system.open_input_file(file.path) as opened:
                result = msgspec.json.decode(opened.read(), type=PieceResult)
            done[result.name] = result
    return done
