"""Folders of model components that were changed, by mistake or with bad intent."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib

__all__ = ["Edit", "Payload", "adapt_manifest", "digest_of", "edit_manifest", "malicious", "replace_pickle"]

Edit = Callable[[dict[str, Any]], object]


class Payload:
    """Harmless: makes a folder when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.proof),)


def malicious(proof: Path) -> bytes:
    """A pickle that makes the folder ``proof``."""
    buffer = io.BytesIO()
    joblib.dump(Payload(proof), buffer)
    return buffer.getvalue()


def edit_manifest(folder: Path, edit: Edit) -> None:
    """Changes the manifest of a folder."""
    manifest = json.loads((folder / "manifest.json").read_text())
    edit(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def adapt_manifest(folder: Path, name: str) -> None:
    """Puts the digest of a changed file into the manifest, as an attacker would who can write to the folder."""
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    edit_manifest(folder, lambda manifest: manifest["files"].update({name: digest}))


def replace_pickle(folder: Path, name: str, value: object) -> None:
    """Replaces a pickle and adapts its digest."""
    joblib.dump(value, folder / name)
    adapt_manifest(folder, name)


def digest_of(folder: Path) -> str:
    """The SHA-256 of the manifest."""
    return hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
