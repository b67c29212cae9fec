"""What a replica adds up between two reports; what Prometheus gets of it is tests/integration/test_metrics.py's."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.own_tables import mixed_table, write_csv
from support.variants import publish_variant

from serve_app.components.compiled import Components
from serve_app.components.saving import save_components
from serve_app.config import PROJECT_ROOT, Settings
from serve_app.errors import FieldProblem
from serve_app.scoring.rows import RowChunk
from serve_app.serving import metrics
from serve_app.serving.metrics import ReplicaMetrics
from serve_app.serving.pipeline import Pipeline
from serve_app.serving.shadow import Shadow
from serve_app.training.train import train


@pytest.fixture
def recorder(components: Components) -> ReplicaMetrics:
    return ReplicaMetrics(components)


@pytest.fixture
def handed_over(recorder: ReplicaMetrics, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What Ray's counters were given, by counter and label."""
    return spy_on(recorder, monkeypatch)


def spy_on(recorder: ReplicaMetrics, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    given: dict[str, float] = {}

    def note(name: str, counter: object) -> None:
        def inc(value: float, tags: dict[str, str] | None = None) -> None:
            labels = [value.partition("+")[0] if label == "version" else value for label, value in (tags or {}).items()]
            key = " ".join([name, *labels])  # a version without its digest
            given[key] = given.get(key, 0) + value

        monkeypatch.setattr(counter, "inc", inc)

    for definition, counter in recorder._counters.items():
        note(definition.name.removesuffix("_seconds"), counter)
    return given


def scored(rows: int, columns: int = 10, positive: int = 0) -> tuple[np.ndarray, np.ndarray]:
    probabilities = np.tile([0.9, 0.1], (rows, 1))
    probabilities[:positive] = [0.5, 0.5]  # as much as the threshold is positive
    return np.zeros((rows, columns)), probabilities


def test_requests_are_summed_up_and_handed_over_once(recorder: ReplicaMetrics, handed_over: dict[str, float]) -> None:
    async def two_requests() -> None:
        values, probabilities = scored(3, positive=1)
        values[0, 0] = values[1, 0] = values[2, 2] = np.nan  # the last of them an unknown category
        recorder.record_scored(values, probabilities, [FieldProblem(2, "x81", "unknown_category", "")])
        recorder.record_scored(*scored(2, positive=2), [])
        assert handed_over == {}
        recorder.flush()

    asyncio.run(two_requests())
    scored_rows = {"rows_scored 1.0.0 0": 2, "rows_scored 1.0.0 1": 3}
    assert handed_over == {**scored_rows, "nulls x53": 2, "unknown_categories x81": 1}


def test_a_row_is_refused_for_its_first_problem(recorder: ReplicaMetrics, handed_over: dict[str, float]) -> None:
    problems = [
        FieldProblem(0, "x53", "missing_field", ""),
        FieldProblem(0, "x44", "not_a_number", ""),
        FieldProblem(4, None, "not_an_object", ""),
        FieldProblem(5, "x44", "missing_field", ""),
    ]

    async def refuse() -> None:
        recorder.record_refused(problems)
        recorder.flush()

    asyncio.run(refuse())
    assert handed_over == {"rows_refused 1.0.0 missing_field": 2, "rows_refused 1.0.0 not_an_object": 1}


def test_a_report_follows_by_itself_and_only_when_there_is_something_to_report(
    recorder: ReplicaMetrics, handed_over: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_FLUSH_INTERVAL_S", 0.01)

    async def twice() -> None:
        assert recorder._task is None
        for rows in (5, 10):
            recorder.record_scored(*scored(5), [])
            recorder.record_batch(5)
            task = recorder._task
            assert task is not None
            await asyncio.wait_for(task, 30)
            assert handed_over["rows_scored 1.0.0 0"] == rows
            assert recorder._task is None

    asyncio.run(twice())


def test_the_end_of_the_event_loop_loses_nothing(recorder: ReplicaMetrics, handed_over: dict[str, float]) -> None:
    async def one_request() -> None:
        recorder.record_scored(*scored(5), [])
        await asyncio.sleep(0)

    for _ in range(2):
        asyncio.run(one_request())
    assert handed_over["rows_scored 1.0.0 0"] == 10


def test_arrays_are_not_kept_beyond_a_bound(recorder: ReplicaMetrics, handed_over: dict[str, float]) -> None:
    async def large_requests() -> None:
        for _ in range(5):
            recorder.record_scored(*scored(30_000), [])
            assert sum(map(len, recorder._values)) <= metrics._MAX_KEPT_ROWS

    asyncio.run(large_requests())
    assert handed_over["rows_scored 1.0.0 0"] == 150_000


def test_what_happens_between_two_chunks_is_no_decoding(
    recorder: ReplicaMetrics, handed_over: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(metrics, "perf_counter", lambda: next(clock))

    def chunks() -> Iterator[RowChunk]:
        yield RowChunk(np.zeros((1, 10)), 1, (), ())
        yield RowChunk(np.zeros((2, 10)), 2, (), ())

    consumed = [(chunk.rows, next(clock)) for chunk in recorder.timed(chunks())]
    recorder.flush()
    assert [rows for rows, _ in consumed] == [1, 2]
    assert handed_over == {"decode": 20}  # two chunks of one tick each; the ticks of their consumer are its own


def test_the_times_of_both_stages_are_handed_over(recorder: ReplicaMetrics, handed_over: dict[str, float]) -> None:
    async def one_batch() -> None:
        recorder.transform_seconds += 0.25
        recorder.record_batch(7, 0.5)
        recorder.flush()
        recorder.flush()

    asyncio.run(one_batch())
    assert handed_over == {"transform": 0.25, "score": 0.5}


def test_a_figure_that_cannot_be_told_is_logged_and_harms_nobody(
    recorder: ReplicaMetrics, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(value: float, tags: dict[str, str]) -> None:
        raise TypeError(f"{value} {tags}")

    gauge = recorder.gauges._model.gauge
    monkeypatch.setattr(gauge, "set", fail)
    recorder.gauges.tell_held()  # Ray Serve ends a replica whose health check, which calls this, fails three times
    assert "a gauge could not be set" in caplog.text


def test_what_cannot_be_counted_is_logged_and_not_kept(
    recorder: ReplicaMetrics,
    handed_over: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise TypeError("no such class")

    async def one_that_fails_and_one_that_does_not() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(metrics, "predicted_class_indices", fail)
            recorder.record_scored(*scored(3), [])
            recorder.flush()
        recorder.record_scored(*scored(2), [])
        recorder.flush()

    asyncio.run(one_that_fails_and_one_that_does_not())
    assert "could not be handed over" in caplog.text
    assert handed_over == {"rows_scored 1.0.0 0": 2}


def told(recorder: ReplicaMetrics, tell: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The tags of the gauges that are set."""
    found: list[dict[str, str]] = []
    with monkeypatch.context() as patch:
        for gauge in {id(gauge): gauge for gauge, *_ in (recorder.gauges._model, *recorder.gauges._training)}.values():
            patch.setattr(gauge, "set", lambda _value, tags: found.append(tags))
        tell()
    return found


def test_only_the_version_that_serves_tells_of_its_training_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draft, _ = train(write_csv(tmp_path / "table.csv", mixed_table()), target="bought", method="logit")
    components = save_components(tmp_path / "components", draft)
    recorder = ReplicaMetrics(components)
    assert [set(tags) for tags in told(recorder, recorder.gauges.tell_held, monkeypatch)] == [{"model", "version", "digest"}]
    of_serving = told(recorder, recorder.gauges.tell_serving, monkeypatch)
    assert {"version": components.version_label, "predicted_class": "yes"} in of_serving
    assert {"column": "number"} in of_serving


def test_rows_that_only_a_shadow_saw_are_not_counted_as_scored(
    components: Components, example: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def one_request_and_its_copy() -> tuple[dict[str, float], dict[str, float]]:
        ours, theirs = (Pipeline(Settings(), components, None) for _ in range(2))
        counted = spy_on(ours.metrics, monkeypatch), spy_on(theirs.metrics, monkeypatch)
        body = json.dumps([example, {}]).encode()
        shadow = Shadow(theirs, 1.0, Settings().limits)
        shadow.offer(body, ours, await ours.score(body, report_bad_rows=True))
        await asyncio.gather(*shadow._tasks)
        ours.metrics.flush()
        theirs.metrics.flush()
        return counted

    counted, of_the_shadow = asyncio.run(one_request_and_its_copy())
    assert counted["rows_scored 1.0.0 0"] == counted["rows_refused 1.0.0 missing_field"] == 1
    assert of_the_shadow.keys() == {"decode", "transform", "score"}


def test_the_table_of_metrics_names_those_of_a_shadow(components: Components) -> None:
    shadow = Shadow(Pipeline(Settings(), components, None), 1.0, Settings().limits)
    made = {}
    for metric in (shadow._rows, shadow._disagreements, shadow._skipped, shadow._difference):
        kind = type(metric).__name__.lower()
        name = f"ray_{metric.info['name']}{'_total' if kind == 'counter' else ''}"
        made[name] = (kind, set(metric.info["tag_keys"]) - {"deployment", "replica", "application"})
    text = (PROJECT_ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(ray_class_prediction_shadow_\w+)` \| (\w+) \|([^|]*)\|", text, re.MULTILINE)
    assert {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows} == made


def test_models_that_share_a_version_have_other_labels(components: Components, tmp_path: Path) -> None:
    twin = publish_variant(tmp_path / "twin", components.manifest.version)
    assert components.version_label == f"1.0.0+{components.digest[:8]}"
    assert twin.manifest.version == components.manifest.version
    labels = [
        (recorder._version, recorder.gauges._model.labels["version"], shadow._tags["version"])
        for recorder, shadow in (
            (ReplicaMetrics(model), Shadow(Pipeline(Settings(), model, None), 1.0, Settings().limits))
            for model in (components, twin)
        )
    ]
    assert labels == [(model.version_label,) * 3 for model in (components, twin)]
    assert components.version_label != twin.version_label
