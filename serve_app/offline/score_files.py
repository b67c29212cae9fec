"""Scoring files: ``python -m serve_app score INPUT --output OUT``, on Ray Data.

Owns the run as a whole: cutting the input into pieces, handing them to workers, and the totals. Every row of the input is
counted as either scored or refused. A run that was stopped continues where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import msgspec

from serve_app.components.compiled import Components
from serve_app.components.loading import load_components
from serve_app.errors import TableError
from serve_app.offline.answer_writers import columns_of
from serve_app.offline.pieces import PIECE_BYTES, Format, Piece, file_system, plan
from serve_app.offline.run_folder import PieceResult, claim, finished, run_of
from serve_app.offline.score_piece import score_piece
from serve_app.scoring.cells import excerpt

__all__ = ["PieceResult", "Totals", "score_files"]


class Totals(msgspec.Struct, frozen=True):
    """Counts of a run; ``resumed`` are the pieces that an earlier run had done."""

    pieces: int
    resumed: int
    rows: int
    scored: int
    refused: int


def score_files(  # noqa: PLR0913 - one keyword for each of the user's choices
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
        out: a folder; it is created if it does not exist, and answers of the same run in it are kept.
        components: a folder of model components, at the same path on all machines.
        form: format of the answers.
        keep: columns of the input that the answers repeat.
        piece_bytes: about how many bytes a worker reads at a time.
        advance: called for each piece that is done, with the number of pieces in all.

    Raises:
        TableError: the input cannot be read, ``out`` holds anything else, or a column to keep has the name of an answer's.
        ComponentsError: the components cannot be used.
    """
    loaded = load_components(components)
    keep = _kept_columns(loaded, keep)
    pieces = plan(source, piece_bytes=piece_bytes)
    system, folder = file_system(out)
    system.create_dir(folder, recursive=True)
    claim(system, folder, out, run_of(loaded.digest, pieces, form, keep))
    done = finished(system, folder)
    results = [done[piece.name] for piece in pieces if piece.name in done]
    for result in results:
        advance(result, len(pieces))
    todo = [piece for piece in pieces if piece.name not in done]
    for result in _score_in_workers(_Work(source, out, str(components.resolve()), form, keep), todo):
        results.append(result)
        advance(result, len(pieces))
    return Totals(
        pieces=len(pieces),
        resumed=len(pieces) - len(todo),
        rows=sum(result.rows for result in results),
        scored=sum(result.scored for result in results),
        refused=sum(result.refused for result in results),
    )


def _kept_columns(components: Components, keep: Sequence[str]) -> tuple[str, ...]:
    """The columns to keep, each once.

    Raises:
        TableError: the answers have a column of that name.
    """
    own = columns_of(components, ())
    for name in keep:
        if name in own:
            raise TableError(f"the column {excerpt(name)} cannot be kept: the answers have a column of that name")
    return tuple(dict.fromkeys(keep))


def _score_in_workers(work: _Work, pieces: Sequence[Piece]) -> Iterator[PieceResult]:
    """The result of each piece, as soon as it is done."""
    import ray

    if not pieces:
        return
    items = [{"piece": msgspec.json.encode(piece)} for piece in pieces]
    for row in ray.data.from_items(items, override_num_blocks=len(items)).map(work, num_cpus=1).iter_rows():
        yield msgspec.json.decode(row["result"], type=PieceResult)


class _Work:
    """What Ray Data maps; it runs in a worker, which loads the model once."""

    def __init__(self, source: str, out: str, components: str, form: Format, keep: tuple[str, ...]) -> None:
        self._source, self._out, self._components, self._form, self._keep = source, out, components, form, keep

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        piece = msgspec.json.decode(row["piece"], type=Piece)
        components = _loaded(self._components)
        result = score_piece(piece, self._source, self._out, components, form=self._form, keep=self._keep)
        return {"result": msgspec.json.encode(result)}


@lru_cache(maxsize=1)
def _loaded(folder: str) -> Components:
    return load_components(Path(folder))
