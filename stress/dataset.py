"""The rows that are sent and the answers that are expected: ``data/test.json`` and ``data/expected.json``.

``python -m serve_app`` writes both. It is run as a program, not imported, when a file is missing. An existing file of rows
may be the user's own and is never overwritten.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from stress.errors import StressError

__all__ = ["PROJECT_ROOT", "Dataset", "Expectations", "ExpectedAnswer", "Model", "load_dataset", "prepare_data"]

PROJECT_ROOT = Path(__file__).resolve().parent.parent


class Model(msgspec.Struct, frozen=True):
    """The identity of a model."""

    name: str
    version: str
    digest: str


class ExpectedAnswer(msgspec.Struct, frozen=True):
    """The expected answer to one row: the probability of each class, in the order of the classes, and the predicted class."""

    probabilities: tuple[float, ...]
    predicted_class: object


class Expectations(msgspec.Struct, frozen=True):
    """``expected.json``: the answers of one model to one file of rows, in the order of its rows."""

    model: Model
    rows_sha256: str
    classes: tuple[object, ...]
    answers: tuple[ExpectedAnswer, ...]


class Dataset(msgspec.Struct, frozen=True):
    """``content`` is the whole file of rows; each of ``rows`` is one row object of it, byte for byte."""

    path: Path
    content: bytes
    rows: Sequence[bytes]
    expected: Expectations


def prepare_data(folder: Path, say: Callable[[str], None]) -> None:
    """Writes test.json if it is missing, and expected.json if it is missing or outdated; ``say`` announces which.

    Raises:
        StressError: a file cannot be written.
    """
    rows, expected = folder / "test.json", folder / "expected.json"
    if not rows.exists():
        say(f"{rows} is missing: generating it ...")
        _run_serve_app("generate", "--out", str(folder.resolve()))
    elif not expected.exists() or _read_expectations(expected).rows_sha256 != _sha256(rows.read_bytes()):
        say(f"{expected} is missing or of other rows: scoring {rows} ...")
        _run_serve_app("expect", str(rows.resolve()), "--out", str(expected.resolve()))


def load_dataset(folder: Path) -> Dataset:
    """The rows of ``folder`` and their expected answers.

    Raises:
        StressError: a file is missing or unreadable, or the two do not belong together.
    """
    path = folder / "test.json"
    content = _read(path)
    expected = _read_expectations(folder / "expected.json")
    try:
        rows = [bytes(raw) for raw in msgspec.json.decode(content, type=list[msgspec.Raw])]
    except msgspec.DecodeError as error:
        raise StressError(f"{path} is no JSON array of rows: {error}") from error
    if not rows:
        raise StressError(f"{path} holds no rows")
    if expected.rows_sha256 != _sha256(content) or len(expected.answers) != len(rows):
        raise StressError(f"{folder / 'expected.json'} is of other rows than {path}: run `python -m serve_app expect {path}`")
    return Dataset(path, content, rows, expected)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StressError(f"{path} cannot be read: {error.strerror}") from error


def _read_expectations(path: Path) -> Expectations:
    try:
        return msgspec.json.decode(_read(path), type=Expectations)
    except msgspec.DecodeError as error:
        raise StressError(f"{path} cannot be used: {error}; remove it, and it is written again") from error


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _run_serve_app(*arguments: str) -> None:
    command = [sys.executable, "-m", "serve_app", *arguments]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.strip().rpartition("\n")[2].removeprefix("Error: ")
        raise StressError(f"`python -m serve_app {arguments[0]}` failed: {reason}")
