from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.own_tables import mixed_table, write_csv

from serve_app.errors import TableError
from serve_app.offline import csv_records as csv_module
from serve_app.offline.pieces import Piece, file_system, plan, records


def opened(piece: Piece, columns: list[str]) -> tuple[Any, Piece, list[str]]:
    return file_system(piece.path)[0], piece, columns


@pytest.mark.parametrize("piece_bytes", [1, 7, 50, 1000])
def test_a_csv_file_is_cut_where_rows_end_and_not_within_quotes(tmp_path: Path, piece_bytes: int) -> None:
    rows = [["a", 'b "quoted"\nand broken', "1"], ["", '"', ","], ["ü\r\nü", "", ""]] * 7
    path = tmp_path / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["x", "y\nz", "n"], *rows])
    pieces = plan(str(path), piece_bytes=piece_bytes)
    found = [(number, row) for piece in pieces for number, row in records(*opened(piece, ["x", "y\nz", "n"]))]
    assert [number for number, _ in found] == list(range(21))
    assert [list(row.values()) for _, row in found if isinstance(row, dict)] == rows


def csv_records(text: bytes) -> list[list[str]]:
    """What csv.reader makes of a whole file, without its header."""
    return list(csv.reader(io.StringIO(text.decode(), newline="")))[1:]


def read_in_pieces(path: Path, piece_bytes: int) -> list[tuple[int, list[str] | str]]:
    """The cells of each record of a file of the columns a and b, or why it has none, with its number."""
    pieces = plan(str(path), piece_bytes=piece_bytes)
    found = [one for piece in pieces for one in records(*opened(piece, ["a", "b"]))]
    return [(number, [str(cell) for cell in row.values()] if isinstance(row, dict) else str(row)) for number, row in found]


TEXTS = st.lists(st.sampled_from(['"', '""', ",", "\n", "\r", "\r\n", "a", "é"]), min_size=1, max_size=60).map("".join)


@given(text=TEXTS, size=st.integers(1, 90))
@example(text='3" pipe,x\n4,y\n', size=5)
def test_records_cut_in_pieces_of_any_size_are_those_of_the_whole_file(text: str, size: int) -> None:
    content = f"a,b\n{text}".encode()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "rows.csv")
        path.write_bytes(content)
        found, whole = read_in_pieces(path, size), read_in_pieces(path, len(content))
    assert found == whole
    if not is_open_at_the_end(text):
        numbered = enumerate(csv_records(content))
        said = "{} cells, the header has 2".format
        assert found == [(number, cells if len(cells) == 2 else said(len(cells))) for number, cells in numbered if cells]


@given(text=TEXTS, size=st.integers(1, 90), limit=st.integers(1, 12))
def test_what_is_too_long_for_a_quoted_cell_is_so_in_pieces_of_any_size(text: str, size: int, limit: int) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_module, "_MAX_QUOTED_BYTES", limit)
        path = Path(name, "rows.csv")
        path.write_bytes(f"a,b\n{text}".encode())
        assert read_in_pieces(path, size) == read_in_pieces(path, 1000)


def is_open_at_the_end(text: str) -> bool:
    """Whether a quote that opened a cell does not close."""
    return csv_records(f"a,b\n{text}\nend".encode())[-1] != ["end"]


def test_a_quote_within_a_cell_is_an_ordinary_character(tmp_path: Path) -> None:
    rows = [[f'{row}" pipe', "x\ny"] for row in range(40)]
    (tmp_path / "rows.csv").write_text("a,b\n" + "".join(f'{a},"{b}"\n' for a, b in rows))
    assert read_in_pieces(tmp_path / "rows.csv", 100) == list(enumerate(rows))


@pytest.mark.parametrize("piece_bytes", [10, 3_000_000])
def test_a_quote_that_does_not_close_costs_its_own_line_only(tmp_path: Path, piece_bytes: int) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('a,b\n1,2\n"3\n4","5\n6,7\n')
    refused = "a quote opens a cell and does not close"
    assert read_in_pieces(path, piece_bytes) == [(0, ["1", "2"]), (1, refused), (2, ["6", "7"])]


def test_neither_a_quote_without_end_nor_a_long_cell_ends_the_run(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    good, long = ["1", "2" * 100], ["3", "x" * 200_000]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["a", "b"], *[good] * 10, long])
        file.write('4,"5\n')
        csv.writer(file).writerows([good] * 20_000)
        file.write('6,7"\n"8",9\n')
    for piece_bytes in (200_000, 8_000_000):
        found = read_in_pieces(path, piece_bytes)
        assert [number for number, _ in found] == list(range(20_014))
        strange = [row for _, row in found if row != good]
        assert strange == [long, "a quote opens a cell and does not close", ["6", '7"'], ["8", "9"]]


@pytest.mark.parametrize("content", [b'"a,b\n1,2\n', b"a\xff,b\n1,2\n"])
def test_a_header_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(TableError, match="header"):
        plan(str(tmp_path / "rows.csv"))


def test_a_folder_is_all_its_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "in" / "b").mkdir(parents=True)
    write_csv(tmp_path / "in" / "b" / "2.csv", mixed_table(5))
    (tmp_path / "in" / "1.jsonl").write_text("{}\n" * 5)
    (tmp_path / "in" / "notes.txt").write_text("none")
    assert [Path(piece.path).name for piece in plan(str(tmp_path / "in"))] == ["1.jsonl", "2.csv"]


@pytest.mark.parametrize("name", ["nowhere.csv", "notes.txt"])
def test_what_is_not_a_file_of_rows_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(TableError):
        plan(str(tmp_path / name))


@pytest.mark.parametrize("separator", [";", "\t", "|"])
@pytest.mark.parametrize("piece_bytes", [1, 30, 10_000])
def test_the_separator_of_a_csv_file_is_found(tmp_path: Path, separator: str, piece_bytes: int) -> None:
    rows = [["1,5", f"a{separator}b\nc"], ["2,5", 'say "no"'], ["3", ""]] * 20
    path = tmp_path / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=separator).writerows([["a", "b"], *rows])
    assert read_in_pieces(path, piece_bytes) == list(enumerate(rows))
