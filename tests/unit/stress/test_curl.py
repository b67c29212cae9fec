from __future__ import annotations

import json
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from stress.curl import Pick, Plan, Tally, write_part
from stress.dataset import Dataset


def make_plan(pick: Pick, folder: Path, calls: int = 40, **changes: Any) -> Plan:
    settings: dict[str, Any] = {
        "url": 'http://h:1/"x"',
        "concurrency": 3,
        "seed": 26,
        "data": str(folder),
        "log": str(folder / "log"),
    }
    return Plan(pick=pick, calls=calls, **(settings | changes))


def test_each_row_is_taken_in_order_and_again_from_the_beginning(tmp_path: Path) -> None:
    plan = make_plan("each-row", tmp_path)
    assert [plan.rows(call, 30) for call in range(40)] == [(call % 30,) for call in range(40)]


def test_a_random_call_depends_on_the_seed_and_its_number_only(tmp_path: Path) -> None:
    plan = make_plan("random-batches", tmp_path, min_rows=2, max_rows=9)
    drawn = [plan.rows(call, 30) for call in range(200)]
    assert [plan.rows(call, 30) for call in reversed(range(200))] == drawn[::-1]
    assert {len(rows) for rows in drawn} == set(range(2, 10))
    assert {row for rows in drawn for row in rows} == set(range(30))
    assert [plan.size(call, 30) for call in range(200)] == [len(rows) for rows in drawn]
    other = make_plan("random-batches", tmp_path, min_rows=2, max_rows=9, seed=27)
    assert [other.rows(call, 30) for call in range(200)] != drawn


@pytest.mark.parametrize(
    ("pick", "changes", "rows_per_part"),
    [
        ("each-row", {}, 1000),
        ("random-rows", {}, 1000),
        ("random-batches", {"min_rows": 50, "max_rows": 200}, 50_000),
        ("whole-file", {"calls": 12}, 50_000),
    ],
)
def test_parts_hold_every_call_once_and_no_more_than_curl_should_hold(
    tmp_path: Path, pick: Pick, changes: dict[str, int], rows_per_part: int
) -> None:
    plan = make_plan(pick, tmp_path, **({"calls": 2500} | changes))
    parts = list(plan.parts(10_000))
    assert (parts[0][0], parts[-1][1]) == (0, plan.calls)
    assert all(before[1] == after[0] for before, after in pairwise(parts))
    for first, last in parts:
        assert 0 < last - first <= 1000
        assert sum(plan.size(call, 10_000) for call in range(first, last)) <= rows_per_part


def test_a_call_of_more_rows_than_a_part_has_a_part_of_its_own(tmp_path: Path) -> None:
    assert list(make_plan("whole-file", tmp_path, calls=3).parts(80_000)) == [(0, 1), (1, 2), (2, 3)]


def test_a_part_is_a_request_per_call_that_names_its_body_and_its_answer(
    tmp_path: Path, dataset_folder: Path, dataset: Dataset
) -> None:
    plan = make_plan("each-row", dataset_folder)
    write_part(plan, tmp_path, 0, 5)
    write_part(plan, tmp_path, 5, 8)
    blocks = (tmp_path / "calls.curl").read_text().split("next\n")
    assert len(blocks) == 3
    assert sorted(path.name for path in (tmp_path / "bodies").iterdir()) == ["5.json", "6.json", "7.json"]
    for call, block in enumerate(blocks, 5):
        settings = dict(line.split(" = ", 1) for line in block.splitlines() if " = " in line)
        assert shlex.split(settings["url"]) == ['http://h:1/"x"/predict']
        assert settings["data-binary"] == f'"@{tmp_path}/bodies/{call}.json"'
        assert settings["output"] == f'"{tmp_path}/answers/{call}.json"'
        assert settings["write-out"].startswith(f'"{call}\\t%{{http_code}}\\t')
        assert json.loads((tmp_path / "bodies" / f"{call}.json").read_bytes()) == [json.loads(dataset.rows[call])]


def test_the_whole_file_is_sent_as_it_is(tmp_path: Path, dataset_folder: Path) -> None:
    write_part(make_plan("whole-file", dataset_folder), tmp_path, 0, 1)
    assert f'data-binary = "@{dataset_folder}/test.json"' in (tmp_path / "calls.curl").read_text()


def test_success_is_read_from_the_status_and_the_answer_of_each_call(tmp_path: Path, dataset: Dataset) -> None:
    plan = make_plan("each-row", tmp_path, calls=6)
    answers = tmp_path / "answers"
    answers.mkdir()
    for call in range(5):
        expected = dataset.expected.answers[0 if call == 2 else call]  # call 2 is given another row's answer
        body = {
            "probability_positiveclass": expected.probabilities[1],
            "probability_predictedclass": max(expected.probabilities),
            "predicted_class": expected.predicted_class,
        }
        (answers / f"{call}.json").write_text(json.dumps([body]))
    lines = ["1\t200\t0.25\t\n", "0\t200\t0.5\t\n", "2\t200\t0.1\t\n", "3\t503\t0.1\t\n", "4\t000\t0.1\tConnection refused\n"]
    advances: list[int] = []
    tally = Tally(plan, tmp_path, dataset)
    tally.read(lines, lambda: advances.append(1))
    assert len(advances) == 5
    assert tally.seconds == [0.25, 0.5]
    log = [line.split("\t") for line in (tmp_path / "log").read_text().splitlines()]
    assert log[0] == ["call", "rows", "status", "seconds", "verdict", "answer"]
    verdicts = {int(line[0]): (line[2], line[4]) for line in log[1:]}
    assert verdicts[0] == verdicts[1] == ("200", "ok")
    assert verdicts[2][1].startswith("FAILED: row 2 ")
    assert verdicts[3] == ("503", verdicts[3][1])
    assert verdicts[3][1].startswith("FAILED: status 503 instead of 200")
    assert verdicts[4] == ("0", "FAILED: Connection refused")
    assert verdicts[5] == ("0", "FAILED: curl did not come to it")
    assert len(tally.failures) == 4
    assert json.loads(log[1][5])[0]["predicted_class"] == dataset.expected.answers[1].predicted_class
    assert list(answers.iterdir()) == []


def test_a_long_answer_is_cut_in_the_log(tmp_path: Path, dataset: Dataset) -> None:
    (tmp_path / "answers").mkdir()
    (tmp_path / "answers" / "0.json").write_bytes(b"[" + b" " * 5000 + b"]")
    Tally(make_plan("each-row", tmp_path, calls=1), tmp_path, dataset).read(["0\t200\t0.1\t\n"], lambda: None)
    (line,) = (tmp_path / "log").read_text().splitlines()[1:]
    assert len(line) < 1200
    assert line.endswith("... (5002 bytes)")
