from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest
from support.own_tables import mixed_table, write_csv

from serve_app.errors import TableError
from serve_app.training.tables import read_table
from serve_app.training.train import train


def zipped(content: bytes, *names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, content)
    return buffer.getvalue()


def zstandard(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    compressed: bytes = sink.getvalue().to_pybytes()
    return compressed


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zip", "zst"])
def test_a_compressed_table_is_the_same_table(tmp_path: Path, suffix: str) -> None:
    plain = write_csv(tmp_path / "plain.csv", mixed_table(100))
    content = plain.read_bytes()
    compressed = {
        "gz": gzip.compress(content),
        "bz2": bz2.compress(content),
        "xz": lzma.compress(content),
        "zip": zipped(content, "inner.csv"),
        "zst": zstandard(content),
    }
    path = tmp_path / f"people.csv.{suffix}"
    path.write_bytes(compressed[suffix])
    assert read_table(path).columns == read_table(plain).columns
    draft, _ = train(path, target="bought", method="logit")
    assert draft.manifest.name == "people"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv.gz", b"a,b\n1,2\n", "cannot be decompressed"),
        ("t.csv.zst", b"a,b\n1,2\n", "cannot be decompressed"),
        ("t.zip", b"a,b\n1,2\n", "cannot be decompressed"),
        ("t.zip", zipped(b"a,b\n", "one.csv", "two.csv"), "it holds 2 files; unpack the one to use"),
        ("t.xlsx", b"PK", "is a spreadsheet, which cannot be read; save the sheet as CSV"),
    ],
)
def test_what_cannot_be_decompressed_is_refused_in_words(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TableError, match=said):
        read_table(tmp_path / name)
