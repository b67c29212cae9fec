"""Writing model components: a folder appears, or is replaced, as a whole."""

from __future__ import annotations

import ctypes
import hashlib
import io
import os
import shutil
import tempfile
from pathlib import Path

import msgspec

from serve_app.components.compiled import Components
from serve_app.components.golden_rows import score_golden_rows
from serve_app.components.loading import load_components, read_manifest
from serve_app.components.manifest import FILES, MANIFEST, Draft, library_versions
from serve_app.components.signature import SIGNATURE
from serve_app.errors import ComponentsError

__all__ = ["save_components"]


def save_components(folder: Path, draft: Draft) -> Components:
    """Writes components and returns them as loaded back; ``folder`` is replaced as a whole, or not at all.

    Raises:
        ComponentsError: ``folder`` holds something else, which is left alone, or the estimators do not fit the manifest.
    """
    import joblib

    folder = folder.resolve()  # a link keeps pointing where it does
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - FILES - {MANIFEST, SIGNATURE}):
        raise ComponentsError(str(folder), "holds other files than model components; name a new folder")
    if (folder / MANIFEST).exists():
        read_manifest(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        files = {}
        for part in draft.manifest.estimators:
            buffer = io.BytesIO()
            joblib.dump(getattr(draft, part), buffer)
            _write(scratch / f"{part}.pkl", buffer.getvalue())
            files[f"{part}.pkl"] = hashlib.sha256(buffer.getvalue()).hexdigest()
        manifest = msgspec.structs.replace(draft.manifest, libraries=library_versions(), files=files)
        golden = score_golden_rows(manifest, draft)
        manifest = msgspec.structs.replace(manifest, golden=golden)
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
    """Puts ``new`` in the place of ``old`` at once; a crash leaves one or the other there, whole."""
    if not old.exists():
        new.rename(old)
        return
    exchange, here = 2, -100  # RENAME_EXCHANGE and AT_FDCWD of linux/fs.h and fcntl.h
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None or renameat2(here, os.fsencode(new), here, os.fsencode(old), exchange) != 0:
        # No such call on this system or file system: the next best is two renames with a short gap between.
        aside = new.with_name(f"{new.name}.old")
        old.rename(aside)
        new.rename(old)
        shutil.rmtree(aside)
