"""What a model answers to a file of rows: ``expected.json``, with which load tests compare the service's answers.

Owns the format of that file. Rows are read as the service reads them, so numbers in strings, money and percent mean the same.
The model is named with its digest, because another model's answers are different without being wrong.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from serve_app.atomic_files import replacing
from serve_app.errors import InvalidRowsError
from serve_app.scoring.scorers import predicted_class_indices

if TYPE_CHECKING:
    from pathlib import Path

    from serve_app.components.compiled import Components

__all__ = ["Expectations", "ExpectedAnswer", "ExpectedModel", "write_expectations"]


ClassLabel = int | float | str | bool


class ExpectedModel(msgspec.Struct, frozen=True):
    """The model, as ``GET /model`` names it."""

    name: str
    version: str
    digest: str


class ExpectedAnswer(msgspec.Struct, frozen=True):
    """The answer to one row: the probability of each class, in the order of the classes, and the predicted class."""

    probabilities: tuple[float, ...]
    predicted_class: ClassLabel


class Expectations(msgspec.Struct, frozen=True):
    """The file; ``answers`` are in the order of the rows, and ``rows_sha256`` is the digest of the file of rows."""

    model: ExpectedModel
    rows_sha256: str
    classes: tuple[ClassLabel, ...]
    answers: tuple[ExpectedAnswer, ...]


def write_expectations(rows: Path, out: Path, components: Components) -> Expectations:
    """Scores ``rows``, a JSON array of row objects, and writes ``out``, whole or not at all.

    Raises:
        RequestError: the service would refuse the rows; the message names the first one.
    """
    content = rows.read_bytes()
    expectations = _expect(content, components)
    with replacing(out) as file:
        file.write(msgspec.json.encode(expectations).decode())
        file.write("\n")
    return expectations


def _expect(content: bytes, components: Components) -> Expectations:
    manifest = components.manifest
    chunks = list(components.parser(max_rows=max(1, content.count(b"{"))).chunks(content))
    problems = [problem for chunk in chunks for problem in chunk.problems]
    if problems:
        raise InvalidRowsError(problems)
    probabilities = components.score(np.concatenate([chunk.values for chunk in chunks]))
    classes = predicted_class_indices(probabilities, manifest.threshold).tolist()
    return Expectations(
        model=ExpectedModel(manifest.name, manifest.version, components.digest),
        rows_sha256=hashlib.sha256(content).hexdigest(),
        classes=manifest.classes,
        answers=tuple(
            ExpectedAnswer(tuple(row), manifest.classes[index])
            for row, index in zip(probabilities.tolist(), classes, strict=True)
        ),
    )
