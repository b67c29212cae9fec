"""Counting the rows of files for drift, which ``python -m serve_app drift`` compares with the training rows. Knows no Ray."""

from __future__ import annotations

from serve_app.components.compiled import Components
from serve_app.errors import TableError
from serve_app.offline.pieces import file_system, plan, records
from serve_app.offline.read_rows import ROWS_AT_ONCE, batches, read_rows
from serve_app.scoring.distribution import scores_of
from serve_app.scoring.drift_counts import Counts

__all__ = ["count_files"]


def count_files(source: str, components: Components) -> tuple[Counts, int]:
    """Counts all rows of a file or folder that can be scored; also returns how many were refused.

    Raises:
        TableError: the input cannot be read, or the manifest lacks the distribution of the training rows.
    """
    manifest = components.manifest
    if not manifest.distribution:
        raise TableError(f"the manifest of {manifest.name} does not hold the distribution of its training rows")
    counts, refused = Counts(manifest.distribution), 0
    parser = components.parser(max_rows=ROWS_AT_ONCE)
    system, _ = file_system(source)
    for piece in plan(source):
        for some in batches(records(system, piece, manifest.selected_features)):
            values, problems = read_rows(parser, [record for _, record in some])
            refused += len(problems)
            if len(values):
                counts.update(values, scores_of(components.score(values)))
    return counts, refused
