from __future__ import annotations

import json
from random import Random

import pytest
from support.scoring import score

from serve_app.components.compiled import Components
from serve_app.errors import MalformedJSONError
from stress.calls import BATCH, KINDS, MALFORMED, ONE_ROW, REFUSED, REPORTED, WHOLE_FILE, Call, CallMaker
from stress.dataset import Dataset
from stress.errors import WrongAnswerError
from stress.service import ServedModel


def draw(dataset: Dataset, served: ServedModel, mix: dict[str, float], count: int, seed: int = 1) -> list[Call]:
    maker = CallMaker(dataset, served, (2, 9), mix, Random(seed))
    return [maker.next_call() for _ in range(count)]


def served_answer(components: Components, body: bytes) -> bytes:
    """What the service answers to good rows."""
    answers = [
        {
            "probability_positiveclass": row[1],
            "probability_predictedclass": max(row),
            "predicted_class": int(row[1] >= 0.5),
        }
        for row in score(components, json.loads(body)).tolist()
    ]
    return json.dumps(answers).encode()


@pytest.mark.parametrize(("kind", "sizes"), [(ONE_ROW, {1}), (BATCH, set(range(2, 10))), (WHOLE_FILE, {30})])
def test_a_call_of_good_rows_accepts_the_models_answers_and_no_others(
    dataset: Dataset, served: ServedModel, components: Components, kind: str, sizes: set[int]
) -> None:
    calls = draw(dataset, served, {kind: 1}, 100)
    assert {len(call.rows) for call in calls} == sizes
    for call in calls[:5]:
        right = served_answer(components, call.body)
        assert len(json.loads(call.body)) == len(call.rows)
        call.check(200, right)
        wrong = json.loads(right)
        wrong[-1]["probability_positiveclass"] += 1e-9
        with pytest.raises(WrongAnswerError):
            call.check(200, json.dumps(wrong).encode())


@pytest.mark.parametrize("kind", [REFUSED, REPORTED])
def test_one_row_of_a_bad_call_is_bad_in_the_way_that_is_expected(
    dataset: Dataset, served: ServedModel, components: Components, kind: str
) -> None:
    codes = set()
    for call in draw(dataset, served, {kind: 1}, 60):
        (chunk,) = components.parser(max_rows=10).chunks(call.body)
        (problem,) = chunk.problems
        codes.add(problem.code)
        if kind == REFUSED:
            body = {"error": {"code": problem.code, "rows": [{"row": problem.row}]}}
            call.check(422, json.dumps(body).encode())
            with pytest.raises(WrongAnswerError):
                call.check(200, b"[]")
        else:
            assert call.path == "/predict?on_error=report"
            assert len(call.rows) == len(chunk.values)
            good = [row for place, row in enumerate(json.loads(call.body)) if place != problem.row]
            answers = json.loads(served_answer(components, json.dumps(good).encode()))
            answers.insert(problem.row, {"error": {"code": problem.code, "rows": [{"row": problem.row}]}})
            call.check(200, json.dumps(answers).encode())
    assert codes == {"missing_field", "not_a_category", "not_a_number", "not_an_object"}


def test_a_malformed_call_is_not_json(dataset: Dataset, served: ServedModel, components: Components) -> None:
    for call in draw(dataset, served, {MALFORMED: 1}, 5):
        with pytest.raises(MalformedJSONError):
            list(components.parser(max_rows=10).chunks(call.body))
        call.check(400, b'{"error": {"code": "malformed_json", "rows": []}}')


def test_the_same_seed_draws_the_same_calls_and_another_seed_others(dataset: Dataset, served: ServedModel) -> None:
    mix = dict.fromkeys(KINDS, 1.0)
    first, again, other = ([call.body for call in draw(dataset, served, mix, 50, seed)] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_mix_is_drawn_by_its_weights(dataset: Dataset, served: ServedModel) -> None:
    kinds = [call.kind for call in draw(dataset, served, {ONE_ROW: 9, BATCH: 1}, 2000)]
    assert set(kinds) == {ONE_ROW, BATCH}
    assert kinds.count(BATCH) / len(kinds) == pytest.approx(0.1, abs=0.03)
