from __future__ import annotations

from pathlib import Path

import pytest
from support.own_tables import mixed_table, rows_of

from serve_app.errors import SettingsError, TableError
from serve_app.training.csv_tables import CsvOptions, read_csv
from serve_app.training.tables import read_table

ROWS = [["name", "size (m²)"], ["Söhne, Müller", "1.5"], ["a;b", "2"], ['"q"', "3"]]


def written(separator: str) -> str:
    lines = []
    for row in ROWS:
        cells = [f'"{cell.replace(chr(34), chr(34) * 2)}"' if set(cell) & {separator, '"', ",", ";"} else cell for cell in row]
        lines.append(separator.join(cells))
    return "\r\n".join(lines)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_and_a_byte_order_mark_are_found(separator: str, encoding: str) -> None:
    header, columns = read_csv(written(separator).encode(encoding), CsvOptions())
    assert [header, *map(list, zip(*columns, strict=True))] == ROWS


@pytest.mark.parametrize(
    ("content", "options", "columns"),
    [
        (b"x:y\n1:2\n", CsvOptions(":"), [("1",), ("2",)]),
        (b"x\ty\n1,5\t2,5\n", CsvOptions("tab"), [("1,5",), ("2,5",)]),
        (b"x;y\n1,5;2,5\n", CsvOptions(), [("1,5",), ("2,5",)]),
        (b"x,y\n1;5,2;5\n", CsvOptions(), [("1;5",), ("2;5",)]),
        (b"x\n1\n", CsvOptions(), [("1",)]),
        ("x,y\né,2\n".encode("latin-1"), CsvOptions(encoding="latin-1"), [("é",), ("2",)]),
        ("x,y\né,2\n".encode("utf-16-le"), CsvOptions(encoding="utf-16-le"), [("é",), ("2",)]),
    ],
)
def test_what_is_named_or_plain_to_see_is_read(content: bytes, options: CsvOptions, columns: list[tuple[str, ...]]) -> None:
    assert read_csv(content, options)[1] == columns


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "x,y\né,2\n".encode("latin-1") * 30,
            r"is not a CSV file in UTF-8: .*; name its encoding by --encoding",
        ),
        (b"x:y,\n1:2\n" * 30, "row 2 has 1 cells, the header has 2; if the separator is not a comma, name it by --separator"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_option_that_helps(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(TableError, match=said):
        read_table(tmp_path / "table.csv")


@pytest.mark.parametrize("options", [{"separator": ";;"}, {"separator": '"'}, {"encoding": "klingon"}])
def test_an_option_that_cannot_be_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"separator cannot be|there is no encoding"):
        CsvOptions(**options)


def test_a_table_of_a_spreadsheet_program_trains_as_any_other(tmp_path: Path) -> None:
    table = mixed_table(100)
    lines = [";".join(table), *(";".join(row.values()) for row in rows_of(table))]
    (tmp_path / "table.csv").write_text("\r\n".join(lines), encoding="utf-16")
    found = read_table(tmp_path / "table.csv")
    assert {name: list(cells) for name, cells in found.columns.items()} == table
