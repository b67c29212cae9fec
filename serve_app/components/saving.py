"""Saving model components: a folder appears, or is replaced, as a whole.

Owns the atomic replacement, and the refusal to replace a folder of anything else.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import msgspec

from serve_app.components.compiled import Components
from serve_app.components.golden_rows import score_golden_rows
from serve_app.components.loading import load_components, read_manifest
from serve_app.components.manifest import FILES, MANIFEST, Draft, library_versions
from serve_app.components.pickles import pickle_estimator
from serve_app.components.signature import SIGNATURE
from serve_app.errors import ComponentsError

__all__ = ["save_components"]


def save_components(folder: Path, draft: Draft) -> Components:
    """Writes components and returns them as loaded again; replaces ``folder`` atomically.

    Raises:
        ComponentsError: ``folder`` contains other files, which are left alone, or the estimators do not fit the manifest.
    """
    folder = folder.resolve()  # a link is kept
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - FILES - {MANIFEST, SIGNATURE}):
        raise ComponentsError(str(folder), "contains files that are not model components; choose a new folder")
    if (folder / MANIFEST).exists():
        read_manifest(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        files = {}
        for part in draft.manifest.estimators:
            content = pickle_estimator(getattr(draft, part))
            _write(scratch / f"{part}.pkl", content)
            files[f"{part}.pkl"] = hashlib.sha256(content).hexdigest()
        golden = score_golden_rows(draft)
        manifest = msgspec.structs.replace(draft.manifest, libraries=library_versions(), files=files, golden=golden)
        _write(scratch / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
        scratch.chmod(0o755)
        loaded = load_components(scratch)
        _replace_folder(scratch, folder)
        return loaded
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _replace_folder(new: Path, old: Path) -> None:
    """Atomically replaces ``old`` by ``new``; a crash leaves one of them whole at ``old``."""
    if not old.exists():
        new.rename(old)
        return
    exchange, here = 2, -100  # RENAME_EXCHANGE and AT_FDCWD of linux/fs.h and fcntl.h
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None or renameat2(here, os.fsencode(new), here, os.fsencode(old), exchange) != 0:
        # No such call on this system or file system: two renames with a short gap are the next best.
        aside = new.with_name(f"{new.name}.old")
        old.rename(aside)
        new.rename(old)
        shutil.rmtree(aside)
