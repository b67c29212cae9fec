from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.own_tables import bundled_table, mixed_table, rows_of, write_csv
from support.scoring import score

from serve_app.components.compiled import Components
from serve_app.components.saving import save_components
from serve_app.offline import answer_writers, run_folder
from serve_app.offline.pieces import file_system, plan
from serve_app.offline.score_piece import score_piece
from serve_app.training.train import train


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
    whole = answer_writers.write_whole

    def write_whole(system: Any, path: str, content: bytes) -> None:
        written.append(path)
        whole(system, path, content)

    for module in (run_folder, answer_writers):
        monkeypatch.setattr(module, "write_whole", write_whole)
    score_piece(piece, str(source), str(tmp_path / "out"), mixed, form="csv", keep=())
    assert [Path(path).parent.name for path in written] == ["out", "_done"]
    system, folder = file_system(str(tmp_path / "out"))
    assert run_folder.finished(system, folder)["000000"].rows == 10


def test_answers_of_three_classes_hold_a_probability_of_each(tmp_path: Path) -> None:
    table = bundled_table("wine")
    draft, _ = train(write_csv(tmp_path / "wine.csv", table), target="class", method="logit")
    components = save_components(tmp_path / "components", draft)
    answers, _ = score_all(tmp_path / "wine.csv", tmp_path / "out", components, piece_bytes=10**6)
    expected = score(components, [{**row} for row in rows_of(table)])
    found = [[answer[f"probability_class_{number}"] for number in range(3)] for answer in answers]
    assert np.array_equal(found, expected)
