"""The output folder of a run: which run it belongs to, and which pieces are done.

Owns ``_run.json``, which ties the folder to one model, input and format, and ``_done/``, one note for each piece that is done.
A run that was stopped continues with the pieces that have no note.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from serve_app.errors import TableError
from serve_app.offline.answer_writers import write_whole
from serve_app.offline.pieces import Format, Piece

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

__all__ = ["PieceResult", "Run", "claim", "finished", "note_done", "run_of"]


class PieceResult(msgspec.Struct, frozen=True):
    """Counts of a piece's rows: ``rows`` = ``scored`` + ``refused``."""

    name: str
    rows: int
    scored: int
    refused: int


class Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``_run.json``: the model, the pieces and the output format that the answers in a folder belong to."""

    digest: str
    pieces_sha256: str
    format: Format
    keep: tuple[str, ...]


def run_of(digest: str, pieces: Sequence[Piece], form: Format, keep: Sequence[str]) -> Run:
    """The run of a model, known by its digest, over some pieces."""
    return Run(digest, hashlib.sha256(msgspec.json.encode(pieces)).hexdigest(), form, tuple(keep))


def claim(system: FileSystem, folder: str, out: str, run: Run) -> None:
    """Marks a new folder as that of ``run``, or checks that it is; ``out`` is the folder as the user calls it.

    Raises:
        TableError: the folder holds the answers of another run, or anything else.
    """
    from pyarrow.fs import FileSelector, FileType

    path = f"{folder}/_run.json"
    if system.get_file_info(path).type == FileType.File:
        with system.open_input_file(path) as file:
            if file.read() != msgspec.json.encode(run):
                reason = "the model, the input or the format is another, or a file has changed since"
                raise TableError(f"{out} holds the answers of another run: {reason}; name a new folder")
    elif system.get_file_info(FileSelector(folder)):
        raise TableError(f"{out} holds something other than answers; name a new folder")
    else:
        write_whole(system, path, msgspec.json.encode(run))


def note_done(system: FileSystem, folder: str, result: PieceResult) -> None:
    """Notes that a piece is done, after its answers have been written."""
    write_whole(system, f"{folder}/_done/{result.name}.json", msgspec.json.encode(result))


def finished(system: FileSystem, folder: str) -> dict[str, PieceResult]:
    """The pieces that are done, by name."""
    from pyarrow.fs import FileSelector

    done = {}
    for file in system.get_file_info(FileSelector(f"{folder}/_done", allow_not_found=True)):
        if file.path.endswith(".json"):
            with system.open_input_file(file.path) as opened:
                result = msgspec.json.decode(opened.read(), type=PieceResult)
            done[result.name] = result
    return done
