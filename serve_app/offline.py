"""Scoring files: ``python -m serve_app score INPUT --output OUT``, on Ray Data.

Owns how files become pieces of work, what a worker makes of a piece, and the books: rows in are rows scored and rows refused.
Rows, features and model are read, made and asked by the very code of a request, so that a row's answer is the same to the last
bit. Paths may be of any file system that pyarrow knows: ``/data/in``, ``s3://bucket/in``.

A piece is some bytes of a CSV file or of JSON lines, cut where a row ends, or some row groups of a Parquet file: what a worker
holds at a time does not grow with the file. A piece's answers are one file (``part-….parquet``, ``.csv`` or ``.jsonl``),
its refused rows another (``_refused/….jsonl``), each of which appears whole or not at all; then it is noted in ``_done``.
Pieces that are done already are left out, so that a run that was stopped goes on where it was; ``_run.json`` makes sure that it
is the same run.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import itertools
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from serve_app.batching import concatenate
from serve_app.components import Components, load_components
from serve_app.drift import Counts, scores_of
from serve_app.errors import FieldProblem, NotRowsError, RequestError, TableError
from serve_app.model import predicted_class_indices
from serve_app.rows import RowChunk, RowParser
from serve_app.tables import cell_text

__all__ = ["Piece", "PieceResult", "Totals", "count_files", "plan", "ray_for_files", "score_files", "score_piece"]

Array = NDArray[np.float64]
Format = Literal["parquet", "csv", "jsonl"]
_Record = dict[str, Any] | bytes  # by column, or JSON as it stands in the file
_Numbered = tuple[int, _Record]
_Cut = tuple[int, int, int, tuple[str, ...]]

PIECE_BYTES = 8 * 1024 * 1024
_HEADER_BYTES = 1024 * 1024
_SUFFIXES: dict[str, Format] = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_ROWS_AT_ONCE = 4096


class Piece(msgspec.Struct, frozen=True):
    """Rows of one file: bytes from ``start`` to ``end``, or Parquet's row groups of these numbers.

    ``name`` is that of its files of answers, ``first_row`` the number of its first row within the file (from 0, blank lines
    counted, a header not), ``header`` are a CSV file's columns.
    """

    name: str
    path: str
    format: Format
    start: int
    end: int
    first_row: int
    header: tuple[str, ...] = ()


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


def plan(source: str, *, piece_bytes: int = PIECE_BYTES) -> list[Piece]:
    """The pieces of a file, or of all files below a folder that end in .csv, .jsonl, .ndjson or .parquet, in order.

    Raises:
        TableError: there is nothing to score, or a file cannot be read.
    """
    from pyarrow import ArrowException
    from pyarrow.fs import FileSelector, FileType

    try:
        system, root = _file_system(source)
        found = system.get_file_info(root)
        files = [found] if found.type == FileType.File else system.get_file_info(FileSelector(root, recursive=True))
        pieces: list[Piece] = []
        for file in sorted(files, key=lambda info: str(info.path)):
            form = _SUFFIXES.get(Path(file.path).suffix.lower())
            if file.type != FileType.File or form is None:
                continue
            cut = {"csv": _cut_csv, "jsonl": _cut_lines, "parquet": _cut_parquet}[form]
            for start, end, first_row, header in cut(system, file.path, piece_bytes):
                pieces.append(Piece(f"{len(pieces):06d}", file.path, form, start, end, first_row, header))
    except (OSError, ArrowException) as error:
        raise TableError(f"{source} cannot be read: {error}") from error
    if not pieces:
        raise TableError(f"{source} holds no rows in files that end in {', '.join(_SUFFIXES)}")
    return pieces


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
        TableError: the input cannot be read, or ``out`` holds something else.
        ComponentsError: the components cannot be used.
    """
    import ray

    loaded = load_components(components)
    pieces = plan(source, piece_bytes=piece_bytes)
    system, folder = _file_system(out)
    system.create_dir(folder, recursive=True)
    sha256 = hashlib.sha256(msgspec.json.encode(pieces)).hexdigest()
    _claim(system, folder, out, _Run(loaded.digest, sha256, form, tuple(keep)))
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
    system, _ = _file_system(source)
    for piece in plan(source):
        for some in _batches(_records(system, piece, manifest.selected_features)):
            values, problems = _read_rows(parser, [record for _, record in some])
            refused += len(problems)
            if len(values):
                counts.update(values, scores_of(components.scorer.score(components.encoder.encode(values))))
    return counts, refused


@contextlib.contextmanager
def ray_for_files(address: str | None) -> Iterator[None]:
    """A connection to the Ray cluster at ``address``, or to a Ray of this machine's own that ends with the block."""
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
    system, _ = _file_system(source)
    out_system, folder = _file_system(out)
    parser = components.parser(max_rows=_ROWS_AT_ONCE)
    columns = list(dict.fromkeys([*manifest.selected_features, *keep]))
    rows = scored = refused = 0
    with (
        _answers_writer(form, out_system, f"{folder}/part-{piece.name}.{form}", _columns_of(components, keep)) as answers,
        _LinesWriter(out_system, f"{folder}/_refused/{piece.name}.jsonl") as bad,
    ):
        for some in _batches(_records(system, piece, columns)):
            values, problems = _read_rows(parser, [record for _, record in some])
            probabilities = components.scorer.score(components.encoder.encode(values)) if len(values) else None
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
    _write_whole(out_system, f"{folder}/_done/{piece.name}.json", msgspec.json.encode(result))
    return result


def _columns_of(components: Components, keep: Sequence[str]) -> dict[str, str]:
    """The columns of the answers, and what is in them: text, integer, number."""
    classes = components.manifest.classes
    probabilities = ["positiveclass"] if len(classes) == 2 else [str(label) for label in classes]
    kinds = {bool: "boolean", int: "integer", float: "number"}
    return {
        "file": "text",
        "row": "integer",
        **dict.fromkeys(keep, "text"),
        **{f"probability_{name}": "number" for name in probabilities},
        "probability_predictedclass": "number",
        "predicted_class": kinds.get(type(classes[0]), "text"),
    }


def _answers(
    components: Components, piece: Piece, rows: Sequence[_Numbered], keep: Sequence[str], probabilities: Array
) -> dict[str, list[Any]]:
    """By column."""
    manifest = components.manifest
    indices = predicted_class_indices(probabilities, manifest.threshold)
    shown = probabilities[:, 1:] if len(manifest.classes) == 2 else probabilities
    decoded = [msgspec.json.decode(record) if isinstance(record, bytes) else record for _, record in rows] if keep else []
    contents = [
        [piece.path] * len(rows),
        [number for number, _ in rows],
        *([cell_text(record.get(name)) or None for record in decoded] for name in keep),
        *shown.T.tolist(),
        probabilities[np.arange(len(rows)), indices].tolist(),
        [manifest.classes[index] for index in indices.tolist()],
    ]
    return dict(zip(_columns_of(components, keep), contents, strict=True))


def _read_rows(parser: RowParser, records: Sequence[_Record]) -> tuple[Array, dict[int, list[dict[str, Any]]]]:
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
    return concatenate([chunk.values for chunk in chunks]), problems


def _read_one(parser: RowParser, row: int, text: bytes) -> RowChunk:
    try:
        if text.lstrip()[:1] == b"[":
            raise NotRowsError("an array")
        (chunk,) = parser.chunks(text)
    except RequestError as error:
        return RowChunk(np.empty((0, len(parser.columns))), 1, (FieldProblem(row, None, error.code, str(error)),), ())
    return chunk._replace(problems=[msgspec.structs.replace(problem, row=row) for problem in chunk.problems])


def _batches(records: Iterator[_Numbered]) -> Iterator[list[_Numbered]]:
    while some := list(itertools.islice(records, _ROWS_AT_ONCE)):
        yield some


def _records(system: Any, piece: Piece, columns: Sequence[str]) -> Iterator[_Numbered]:
    """The rows of a piece with their numbers in the file, blank ones left out; of tables the given columns only."""
    if piece.format == "parquet":
        yield from _parquet_records(system, piece, columns)
        return
    with system.open_input_file(piece.path) as file:
        file.seek(piece.start)
        content = file.read(piece.end - piece.start)
    if piece.format == "jsonl":
        for number, line in enumerate(content.split(b"\n"), piece.first_row):
            if line.strip():
                yield number, line
        return
    places = [(name, piece.header.index(name)) for name in columns if name in piece.header]
    # What is no UTF-8 becomes signs that are no number and no known level, rather than the end of all.
    for number, cells in enumerate(csv.reader(io.StringIO(content.decode("utf-8", "replace"), newline="")), piece.first_row):
        if len(cells) == len(piece.header):
            yield number, {name: cells[place] for name, place in places}
        elif cells:
            yield number, msgspec.json.encode(f"{len(cells)} cells, the header has {len(piece.header)}")


def _parquet_records(system: Any, piece: Piece, columns: Sequence[str]) -> Iterator[_Numbered]:
    import pyarrow.parquet as pq

    number = piece.first_row
    with system.open_input_file(piece.path) as opened, pq.ParquetFile(opened) as file:
        names = [name for name in columns if name in file.schema_arrow.names]
        groups = list(range(piece.start, piece.end))
        for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=groups, columns=names):
            cells = [[_json_cell(cell) for cell in column.to_pylist()] for column in batch.columns]
            for row in range(batch.num_rows):
                yield number, {name: column[row] for name, column in zip(names, cells, strict=True)}
                number += 1


def _json_cell(value: Any) -> Any:
    """A typed value as JSON has it; one that JSON cannot have as a text that no number is."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None if math.isnan(value) else str(value)
    try:
        return cell_text(value)
    except TypeError as error:
        return [str(error)]


def _cut_csv(system: Any, path: str, piece_bytes: int) -> Iterator[_Cut]:
    with system.open_input_file(path) as file:
        head = file.read(_HEADER_BYTES)
    ends, _ = _record_ends(head, is_quoted=True)
    start = int(ends[0]) + 1 if len(ends) else len(head)
    names = tuple(next(csv.reader(io.StringIO(head[:start].decode("utf-8-sig"), newline="")), ()))
    for begin, end, first_row in _cut_text(system, path, start, piece_bytes, is_quoted=True):
        yield begin, end, first_row, names


def _cut_lines(system: Any, path: str, piece_bytes: int) -> Iterator[_Cut]:
    for begin, end, first_row in _cut_text(system, path, 0, piece_bytes, is_quoted=False):
        yield begin, end, first_row, ()


def _cut_parquet(system: Any, path: str, piece_bytes: int) -> Iterator[_Cut]:
    import pyarrow.parquet as pq

    with system.open_input_file(path) as opened, pq.ParquetFile(opened) as file:
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    start = first_row = held = rows = 0
    for number, group in enumerate(groups):
        held += group.total_byte_size
        rows += group.num_rows
        if held >= piece_bytes or number == len(groups) - 1:
            yield start, number + 1, first_row, ()
            start, first_row, held, rows = number + 1, first_row + rows, 0, 0


def _cut_text(system: Any, path: str, start: int, piece_bytes: int, *, is_quoted: bool) -> Iterator[tuple[int, int, int]]:
    """Start, end and the number of the first record of pieces that end where a record does, of about the given size."""
    with system.open_input_file(path) as file:
        size = file.size()
        file.seek(start)
        begin = at = start
        first_row = rows = 0
        is_open = False  # within quotes
        while at < size:
            content = file.read(piece_bytes)
            if not content:
                break
            ends, is_open = _record_ends(content, is_quoted=is_quoted, is_open=is_open)
            if len(ends):
                end = at + int(ends[-1]) + 1
                yield begin, end, first_row
                begin, first_row, rows = end, first_row + rows + len(ends), 0
            at += len(content)
        if begin < size:
            yield begin, size, first_row


def _record_ends(content: bytes, *, is_quoted: bool, is_open: bool = False) -> tuple[NDArray[np.intp], bool]:
    """Where lines end that are not within quotes, and whether the content ends within some."""
    signs = np.frombuffer(content, dtype=np.uint8)
    is_end = signs == ord("\n")
    if is_quoted:
        quotes = np.cumsum(signs == ord('"'), dtype=np.uint8) + np.uint8(is_open)  # wraps around, but stays odd or even
        is_end &= quotes % 2 == 0
        is_open = bool(quotes[-1] % 2) if len(quotes) else is_open
    return np.flatnonzero(is_end), is_open


class _LinesWriter:
    """JSON lines into a file that is there once the block has ended well, and then only if something was written."""

    def __init__(self, system: Any, path: str) -> None:
        self._system, self._path = system, path
        self._lines = io.BytesIO()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._lines.tell():
            _write_whole(self._system, self._path, self._lines.getvalue())

    def write(self, rows: Iterable[dict[str, Any]]) -> None:
        """Adds rows."""
        for row in rows:
            self._lines.write(msgspec.json.encode(row) + b"\n")


class _TextWriter(_LinesWriter):
    """Answers as JSON lines or CSV."""

    def __init__(self, system: Any, path: str, columns: Mapping[str, str], *, is_csv: bool) -> None:
        super().__init__(system, path)
        self._is_csv = is_csv
        if is_csv:
            self._write_csv([tuple(columns)])

    def write_columns(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Adds rows, given by column."""
        rows = zip(*columns.values(), strict=True)
        if self._is_csv:
            self._write_csv(rows)
        else:
            self.write(dict(zip(columns, row, strict=True)) for row in rows)

    def _write_csv(self, rows: Iterable[Sequence[Any]]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(rows)
        self._lines.write(text.getvalue().encode())


class _ParquetWriter:
    """Answers as Parquet."""

    def __init__(self, system: Any, path: str, columns: Mapping[str, str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = {"text": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}
        self._schema = pa.schema([(name, types[kind]) for name, kind in columns.items()])
        self._table = pa.table
        self._system, self._path = system, path
        self._content = io.BytesIO()
        self._writer = pq.ParquetWriter(self._content, self._schema)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._writer.close()
        if kind is None:
            _write_whole(self._system, self._path, self._content.getvalue())

    def write_columns(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Adds rows, given by column."""
        self._writer.write_table(self._table(dict(columns), schema=self._schema))


def _answers_writer(form: Format, system: Any, path: str, columns: Mapping[str, str]) -> _ParquetWriter | _TextWriter:
    if form == "parquet":
        return _ParquetWriter(system, path, columns)
    return _TextWriter(system, path, columns, is_csv=form == "csv")


def _file_system(path: str) -> tuple[Any, str]:
    """Where a path is, and its name there."""
    from pyarrow.fs import FileSystem, LocalFileSystem

    if "://" in path:
        system, name = FileSystem.from_uri(path)
        return system, name
    return LocalFileSystem(), str(Path(path).resolve())


def _write_whole(system: Any, path: str, content: bytes) -> None:
    """A file that appears at once: two workers with the same piece write the same."""
    system.create_dir(path.rpartition("/")[0], recursive=True)
    scratch = f"{path}.{os.getpid()}"
    with system.open_output_stream(scratch) as file:
        file.write(content)
    system.move(scratch, path)


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
                raise TableError(f"{out} holds the answers of another run: another model, input or format; name a new folder")
    elif system.get_file_info(FileSelector(folder)):
        raise TableError(f"{out} holds something else than answers; name a new folder")
    else:
        _write_whole(system, path, msgspec.json.encode(run))


def _finished(system: Any, folder: str) -> dict[str, PieceResult]:
    from pyarrow.fs import FileSelector

    done = {}
    for file in system.get_file_info(FileSelector(f"{folder}/_done", allow_not_found=True)):
        if file.path.endswith(".json"):
            with system.open_input_file(file.path) as opened:
                result = msgspec.json.decode(opened.read(), type=PieceResult)
            done[result.name] = result
    return done
