from __future__ import annotations

import io
import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from stress.calls import BATCH, ONE_ROW, WHOLE_FILE, Call
from stress.checks import check_scores
from stress.curl import Tally, parts, write_part
from stress.dataset import Dataset

Maker = Callable[..., list[Call]]


@pytest.fixture
def make_calls(dataset: Dataset) -> Maker:
    """Calls for one good row each, in order."""

    def make(count: int) -> list[Call]:
        def call(row: int) -> Call:
            def check(status: int, body: bytes) -> None:
                check_scores(status, body, [row], dataset.expected)

            return Call(ONE_ROW, "/predict", b"[" + dataset.rows[row] + b"]", [row], check)

        return [call(number % len(dataset.rows)) for number in range(count)]

    return make


def sized(kind: str, sizes: list[int]) -> list[Call]:
    return [Call(kind, "/predict", b"", range(size), lambda *_: None) for size in sizes]


@pytest.mark.parametrize(
    ("kind", "sizes", "rows_per_part"),
    [
        (ONE_ROW, [1] * 2500, 1000),
        (BATCH, [50 + call % 151 for call in range(2500)], 50_000),
        (WHOLE_FILE, [10_000] * 12, 50_000),
    ],
)
def test_parts_hold_every_call_once_and_no_more_than_curl_should_hold(kind: str, sizes: list[int], rows_per_part: int) -> None:
    found = list(parts(sized(kind, sizes)))
    assert [len(call.rows) for part in found for call in part] == sizes
    for part in found:
        assert 0 < len(part) <= 1000
        assert sum(len(call.rows) for call in part) <= rows_per_part


def test_a_call_of_more_rows_than_a_part_has_a_part_of_its_own() -> None:
    assert [len(part) for part in parts(sized(WHOLE_FILE, [80_000] * 3))] == [1, 1, 1]


def test_a_part_is_a_request_per_call_that_names_its_body_and_its_answer(tmp_path: Path, make_calls: Maker) -> None:
    calls = make_calls(3)
    config = write_part('http://h:1/"x"', calls, tmp_path)
    blocks = config.read_text().split("next\n")
    assert len(blocks) == 3
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["0.json", "1.json", "2.json"]
    for number, block in enumerate(blocks):
        settings = dict(line.split(" = ", 1) for line in block.splitlines() if " = " in line)
        assert shlex.split(settings["url"]) == ['http://h:1/"x"/predict']
        assert settings["data-binary"] == f'"@{tmp_path}/{number}.json"'
        assert settings["output"] == f'"{tmp_path}/{number}.answer"'
        assert settings["write-out"].startswith(f'"{number}\\t%{{http_code}}\\t')
        assert (tmp_path / f"{number}.json").read_bytes() == calls[number].body


def test_success_is_read_from_the_status_and_the_answer_of_each_call(
    tmp_path: Path, dataset: Dataset, make_calls: Maker
) -> None:
    for call in range(5):
        expected = dataset.expected.answers[0 if call == 2 else call]  # call 2 is given another row's answer
        body = {
            "probability_positiveclass": expected.probabilities[1],
            "probability_predictedclass": max(expected.probabilities),
            "predicted_class": expected.predicted_class,
        }
        (tmp_path / f"{call}.answer").write_text(json.dumps([body]))
    lines = ["1\t200\t0.25\t\n", "0\t200\t0.5\t\n", "2\t200\t0.1\t\n", "3\t503\t0.1\t\n", "4\t000\t0.1\tConnection refused\n"]
    advances: list[int] = []
    written = io.StringIO()
    tally = Tally(written)
    tally.read(lines, make_calls(6), tmp_path, lambda: advances.append(1))
    assert len(advances) == 5
    assert tally.seconds == [0.25, 0.5]
    log = [line.split("\t") for line in written.getvalue().splitlines()]
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
    assert list(tmp_path.iterdir()) == []


def test_calls_are_numbered_on_from_part_to_part(tmp_path: Path, make_calls: Maker) -> None:
    log = io.StringIO()
    tally = Tally(log)
    for _ in range(2):
        tally.read(["0\t503\t0.1\t\n"], make_calls(2), tmp_path, lambda: None)
    assert [line.split("\t")[0] for line in log.getvalue().splitlines()[1:]] == ["0", "1", "2", "3"]


def test_a_long_answer_is_cut_in_the_log(tmp_path: Path, make_calls: Maker) -> None:
    (tmp_path / "0.answer").write_bytes(b"[" + b" " * 5000 + b"]")
    log = io.StringIO()
    Tally(log).read(["0\t200\t0.1\t\n"], make_calls(1), tmp_path, lambda: None)
    (line,) = log.getvalue().splitlines()[1:]
    assert len(line) < 1200
    assert line.endswith("... (5002 bytes)")
