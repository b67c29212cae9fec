"""Pieces of files and what becomes of them, without Ray; with it: tests/integration/test_offline.py."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.own_tables import mixed_table, rows_of, write_csv
from support.scoring import score

from serve_app.components.compiled import Components
from serve_app.components.loading import load_components
from serve_app.components.saving import save_components
from serve_app.errors import TableError
from serve_app.offline import answer_writers as answer_files
from serve_app.offline import csv_records as csv_module
from serve_app.offline import score_files as offline
from serve_app.offline.pieces import Piece, file_system, plan, records
from serve_app.offline.score_files import score_piece
from serve_app.training.train import train


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    draft, _ = train(write_csv(folder / "table.csv", mixed_table()), target="bought", method="logit")
    save_components(folder / "components", draft)
    return folder / "components"


@pytest.fixture(scope="module")
def mixed(model_folder: Path) -> Components:
    return load_components(model_folder)


def write(path: Path, table: dict[str, list[str]]) -> Path:
    if path.suffix == ".csv":
        return write_csv(path, table)
    if path.suffix == ".parquet":
        pq.write_table(pa.table(table), path, row_group_size=50)
    else:
        path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows_of(table)))
    return path


def score_all(
    source: Path, out: Path, components: Components, **options: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The answers and the refused rows of all pieces."""
    answers, refused = [], []
    for piece in plan(str(source), piece_bytes=options.pop("piece_bytes", 5000)):
        result = score_piece(piece, str(source), str(out), components, form="jsonl", keep=options.get("keep", ()))
        found = lines(out / f"part-{piece.name}.jsonl")
        bad = lines(out / "_refused" / f"{piece.name}.jsonl")
        assert (result.scored, result.refused) == (len(found), len(bad))
        assert result.rows == result.scored + result.refused
        answers += found
        refused += bad
    return answers, refused


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_rows_answer_is_that_of_a_request_to_the_last_bit(tmp_path: Path, mixed: Components, suffix: str) -> None:
    table = mixed_table(400, seed=3)
    source = write(tmp_path / f"rows{suffix}", table)
    assert len(plan(str(source), piece_bytes=5000)) > 3
    answers, refused = score_all(source, tmp_path / "out", mixed, keep=["customer"])
    expected = score(mixed, [{**row} for row in rows_of(table)])
    assert refused == []
    assert [answer["row"] for answer in answers] == list(range(400))
    assert [answer["customer"] for answer in answers] == table["customer"]
    assert [answer["probability_positiveclass"] for answer in answers] == expected[:, 1].tolist()
    assert {answer["predicted_class"] for answer in answers} == {"no", "yes"}


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_answers_are_the_same_in_every_format(tmp_path: Path, mixed: Components, form: Any) -> None:
    source = write(tmp_path / "rows.csv", mixed_table(60, seed=3))
    (piece,) = plan(str(source))
    score_piece(piece, str(source), str(tmp_path / "out"), mixed, form=form, keep=["place"])
    path = tmp_path / "out" / f"part-000000.{form}"
    found: list[dict[str, Any]]
    if form == "parquet":
        found = pq.read_table(path).to_pylist()
    elif form == "csv":
        with path.open(newline="") as file:
            found = [
                {**row, "probability_positiveclass": float(row["probability_positiveclass"])} for row in csv.DictReader(file)
            ]
    else:
        found = lines(path)
    expected = score(mixed, [{**row} for row in rows_of(mixed_table(60, seed=3))])[:, 1].tolist()
    assert [row["probability_positiveclass"] for row in found] == expected
    assert list(found[0]) == [
        "file",
        "row",
        "place",
        "probability_positiveclass",
        "probability_predictedclass",
        "predicted_class",
    ]


def test_bad_rows_go_to_a_file_of_their_own_with_reasons_and_nothing_is_lost(tmp_path: Path, mixed: Components) -> None:
    good = json.dumps({**rows_of(mixed_table(1))[0]})
    content = [good, "", '{"number": "abc"}', "[1]", "no json", good, f"{good},{good}", '[{"a": 1}, {"a": 2}]', '"text"']
    source = tmp_path / "rows.jsonl"
    source.write_text("\n".join(content))
    answers, refused = score_all(source, tmp_path / "out", mixed)
    assert [answer["row"] for answer in answers] == [0, 5]
    assert [row["row"] for row in refused] == [2, 3, 4, 6, 7, 8]
    codes = [row["problems"][0]["code"] for row in refused]
    assert codes == ["not_a_number", "not_an_object", "malformed_json", "malformed_json", "not_an_object", "not_an_object"]
    assert len(refused[0]["problems"]) == len(mixed.manifest.selected_features)


def test_a_line_of_a_csv_file_with_too_few_cells_is_refused_alone(tmp_path: Path, mixed: Components) -> None:
    source = write(tmp_path / "rows.csv", mixed_table(10))
    source.write_text(source.read_text() + "\n1,2\n")
    answers, refused = score_all(source, tmp_path / "out", mixed)
    assert len(answers) == 10
    assert [row["problems"] for row in refused] == [
        [{"field": None, "code": "not_an_object", "message": "2 cells, the header has 9"}]
    ]


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
    return [(number, list(row.values()) if isinstance(row, dict) else str(row)) for number, row in found]


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


def test_a_quote_within_a_cell_is_a_sign_like_any_other(tmp_path: Path) -> None:
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


def opened(piece: Piece, columns: list[str]) -> tuple[Any, Piece, list[str]]:
    return file_system(piece.path)[0], piece, columns


def test_typed_cells_of_parquet_are_read_as_json_has_them(tmp_path: Path, mixed: Components) -> None:
    import datetime as dt
    from decimal import Decimal

    typed = {
        "number": [1.5, None, float("nan"), float("inf")],
        "paid": [Decimal("12.50"), None, Decimal("-3.00"), Decimal(0)],
        "share": [12, 13, None, 1],
        "member": [True, False, None, True],
        "since": [dt.date(2022, 5, 1), None, dt.date(2023, 1, 1), None],
        "place": ["north", None, "south", "east"],
    }
    text = {
        "number": ["1.5", "", ""],
        "paid": ["12.50", "", "-3.00"],
        "share": ["12", "13", ""],
        "member": ["true", "false", ""],
        "since": ["2022-05-01", "", "2023-01-01"],
        "place": ["north", "", "south"],
    }
    pq.write_table(pa.table(typed), tmp_path / "rows.parquet")
    answers, refused = score_all(tmp_path / "rows.parquet", tmp_path / "out", mixed)
    expected = score(mixed, [{**row} for row in rows_of(text)])[:, 1].tolist()
    assert [answer["probability_positiveclass"] for answer in answers] == expected
    assert [row["row"] for row in refused] == [3]


def test_a_folder_is_all_its_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "in" / "b").mkdir(parents=True)
    write(tmp_path / "in" / "b" / "2.csv", mixed_table(5))
    write(tmp_path / "in" / "1.jsonl", mixed_table(5))
    (tmp_path / "in" / "notes.txt").write_text("none")
    assert [Path(piece.path).name for piece in plan(str(tmp_path / "in"))] == ["1.jsonl", "2.csv"]


@pytest.mark.parametrize("name", ["nowhere.csv", "notes.txt"])
def test_what_cannot_be_scored_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(TableError):
        plan(str(tmp_path / name))


def test_a_folder_of_other_files_or_another_run_is_left_alone(tmp_path: Path) -> None:
    system, folder = file_system(str(tmp_path))
    (tmp_path / "mine.txt").write_text("mine")
    run = offline._Run("digest", "sha", "csv", ())
    with pytest.raises(TableError, match="holds something else than answers"):
        offline._claim(system, folder, "out", run)
    (tmp_path / "mine.txt").unlink()
    offline._claim(system, folder, "out", run)
    offline._claim(system, folder, "out", run)
    with pytest.raises(TableError, match="another run"):
        offline._claim(system, folder, "out", msgspec.structs.replace(run, format="parquet"))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_of_the_same_size_that_took_the_place_of_another_makes_another_run(tmp_path: Path, suffix: str) -> None:
    source = write(tmp_path / f"rows{suffix}", {"number": ["1", "2", "3"]})
    system, folder = file_system(str(tmp_path / "out"))
    (tmp_path / "out").mkdir()
    offline._claim(system, folder, "out", offline._run_of("digest", plan(str(source)), "csv", ()))
    offline._claim(system, folder, "out", offline._run_of("digest", plan(str(source)), "csv", ()))
    write(source, {"number": ["1", "2", "4"]})
    with pytest.raises(TableError, match="a file has changed since"):
        offline._claim(system, folder, "out", offline._run_of("digest", plan(str(source)), "csv", ()))


@pytest.mark.parametrize("name", ["row", "file", "probability_positiveclass", "predicted_class"])
def test_a_column_to_keep_that_is_called_like_one_of_the_answers_is_refused(
    tmp_path: Path, model_folder: Path, name: str
) -> None:
    source = write(tmp_path / "rows.csv", mixed_table(5) | {name: ["x"] * 5})
    with pytest.raises(TableError, match=f"the column '{name}' cannot be kept"):
        offline.score_files(str(source), str(tmp_path / "out"), model_folder, keep=[name])
    assert not (tmp_path / "out").exists()


def test_a_column_to_keep_that_is_named_twice_is_kept_once(tmp_path: Path, mixed: Components) -> None:
    assert offline._kept_columns(mixed, ["place", "customer", "place"]) == ("place", "customer")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_nested_cell_is_kept_as_json_text(tmp_path: Path, mixed: Components, suffix: str) -> None:
    nested = {"a": [2.5], "b": {"c": "é"}}
    table = mixed_table(2)
    source = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({**table, "list": [[1, None]] * 2, "object": [nested] * 2}), source)
    else:
        source.write_text("\n".join(json.dumps({**row, "list": [1, None], "object": nested}) for row in rows_of(table)))
    answers, refused = score_all(source, tmp_path / "out", mixed, keep=["list", "object"])
    assert refused == []
    assert [(json.loads(row["list"]), json.loads(row["object"])) for row in answers] == [([1, None], nested)] * 2


def test_the_book_keeping_of_a_piece_is_written_last(
    tmp_path: Path, mixed: Components, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "rows.csv", mixed_table(10))
    (piece,) = plan(str(source))
    written: list[str] = []
    whole = answer_files.write_whole

    def write_whole(system: Any, path: str, content: bytes) -> None:
        written.append(path)
        whole(system, path, content)

    for module in (offline, answer_files):
        monkeypatch.setattr(module, "write_whole", write_whole)
    score_piece(piece, str(source), str(tmp_path / "out"), mixed, form="csv", keep=())
    assert [Path(path).parent.name for path in written] == ["out", "_done"]
    system, folder = file_system(str(tmp_path / "out"))
    assert offline._finished(system, folder)["000000"].rows == 10


def test_a_ray_of_its_own_listens_on_loopback_is_not_held_back_and_reports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    wanted = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    started: dict[str, Any] = {}

    def init(**options: Any) -> None:
        started.update(options, environment={name: os.environ.get(name) for name in wanted})

    for name in wanted:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(ray, "init", init)
    with offline.ray_for_files(None):
        pass
    assert (started["address"], started["environment"]) == ("local", wanted)


def test_answers_of_three_classes_hold_a_probability_of_each(tmp_path: Path) -> None:
    from support.own_tables import bundled_table

    table = bundled_table("wine")
    draft, _ = train(write_csv(tmp_path / "wine.csv", table), target="class", method="logit")
    components = save_components(tmp_path / "components", draft)
    answers, _ = score_all(tmp_path / "wine.csv", tmp_path / "out", components, piece_bytes=10**6)
    expected = score(components, [{**row} for row in rows_of(table)])
    found = [[answer[f"probability_class_{number}"] for number in range(3)] for answer in answers]
    assert np.array_equal(found, expected)
