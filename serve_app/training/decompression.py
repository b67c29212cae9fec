"""The bytes of a table's file, decompressed: gzip, bzip2, xz, zip with one file in it, and Zstandard, by the name's suffix."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from serve_app.errors import TableError

__all__ = ["read_decompressed", "uncompressed"]


def uncompressed(path: Path) -> Path:
    """The path without the suffix of a compression: ``table.csv`` for ``table.csv.gz``."""
    return path.with_suffix("") if path.suffix.lower() in _DECOMPRESS else path


def read_decompressed(path: Path) -> bytes:
    """A file's content.

    Raises:
        OSError: the file cannot be read.
        TableError: it cannot be decompressed.
    """
    content = path.read_bytes()
    decompress = _DECOMPRESS.get(path.suffix.lower())
    if decompress is None:
        return content
    try:
        return decompress(content)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError) as error:
        raise TableError(f"{path} cannot be decompressed: {error}") from error


def _unzip(content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [one.filename for one in archive.infolist() if not one.is_dir() and not one.filename.startswith("__MACOSX/")]
        if len(names) != 1:
            raise ValueError(f"it holds {len(names)} files; unpack the one to use")
        return archive.read(names[0])


def _unzstd(content: bytes) -> bytes:
    try:
        import pyarrow as pa
    except ModuleNotFoundError as error:
        raise ValueError("that needs the packages that make install-data installs") from error
    with pa.CompressedInputStream(pa.BufferReader(content), "zstd") as stream:
        decompressed: bytes = stream.read()
    return decompressed


_DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
    ".xz": lzma.decompress,
    ".zip": _unzip,
    ".zst": _unzstd,
}
