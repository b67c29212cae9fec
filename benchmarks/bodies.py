"""Request bodies in one format, made once and used in every round."""

from __future__ import annotations

from pathlib import Path

from benchmarks.formats import Format
from benchmarks.rows import Dataset

__all__ = ["Bodies"]

_ROWS_IN_TURN = 2_000  # so many different rows the load generator sends before it begins again
_BODIES_IN_TURN = 256


class Bodies:
    """The bodies for one format.

    Args:
        dataset: all rows that there are.
        wanted: how they become a body.
        folder: where files are written.
    """

    def __init__(self, dataset: Dataset, wanted: Format, folder: Path) -> None:
        self.dataset = dataset
        self.format = wanted
        self.folder = folder
        self._files: dict[int, Path] = {}
        self._latest: tuple[int, bytes] = (0, b"")

    def one(self, rows: int) -> bytes:
        """One body of so many rows: the first ones, from the beginning again where there are fewer."""
        if self._latest[0] != rows:  # only the latest is kept: 100,000 rows take 170 MB
            whole, rest = divmod(rows, len(self.dataset.rows))
            self._latest = (rows, self.format.encode([*(list(self.dataset.rows) * whole), *self.dataset.rows[:rest]]))
        return self._latest[1]

    def file(self, rows: int) -> Path:
        """A file of bodies of so many rows each, one per line."""
        if rows not in self._files:
            starts = range(0, max(rows, min(_ROWS_IN_TURN, len(self.dataset.rows))), rows)[:_BODIES_IN_TURN]
            path = self.folder / f"{type(self.format).__name__}-{rows}.ndjson"
            path.write_bytes(b"\n".join(self.format.encode(self.dataset.rows[start : start + rows]) for start in starts))
            self._files[rows] = path
        return self._files[rows]
