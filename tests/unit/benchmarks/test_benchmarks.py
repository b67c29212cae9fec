from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import yaml

from benchmarks.bodies import Bodies
from benchmarks.chart import draw_chart
from benchmarks.environments import RIVALS
from benchmarks.errors import BenchmarkError
from benchmarks.formats import BentoRows, InferenceV2, RowObjects
from benchmarks.load import parse_wrk
from benchmarks.machine import CpuClock, parse_cpu_line, shares
from benchmarks.markdown import server_table, target_table
from benchmarks.results import load_results, outcomes, save_results, summarise_run
from benchmarks.rows import Dataset, read_dataset
from benchmarks.scenarios import CALLS, IDLE, LOADS, MEMORY, MIXED, OWN_CALLS, START
from benchmarks.servers import FUSED, SPLIT, OwnVariant, own_config
from benchmarks.summary import cost_per_row_step, median_figure, summarise
from benchmarks.targets import TARGETS, Of, Target, evaluate
from serve_app.components.loading import load_components
from serve_app.config import PROJECT_ROOT
from serve_app.scoring.schema import Column, Schema

WRK_OUTPUT = """\
Running 2s test @ http://127.0.0.1:21300/predict
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     4.62ms    1.51ms  24.11ms   84.64%
  8001 requests in 2.01s, 2.51MB read
  Non-2xx or 3xx responses: 3
{"seconds":2.010000,"requests":8001,"p50_ms":4.082,"p99_ms":14.870,"max_ms":24.110,\
"connect_errors":1,"read_errors":0,"write_errors":0,"status_errors":3,"timeouts":2}
"""


def test_wrks_line_of_json_is_found_and_all_kinds_of_errors_are_added_up() -> None:
    result = parse_wrk(WRK_OUTPUT)
    assert (result.requests, result.p50_ms, result.p99_ms, result.max_ms) == (8001, 4.082, 14.87, 24.11)
    assert result.requests_per_s == pytest.approx(3980.6, abs=0.1)
    assert result.errors == 6


def test_wrk_without_a_result_is_an_error() -> None:
    with pytest.raises(BenchmarkError, match="no result"):
        parse_wrk("unable to connect to 127.0.0.1:21300 Connection refused")


def test_the_cpu_line_is_read_as_proc_stat_documents_it() -> None:
    clock = parse_cpu_line("cpu  100 20 30 400 50 6 7 80 9 0\n", ticks_per_s=100)
    assert clock.busy_s == pytest.approx(1.63)  # user, nice, system, irq, softirq; guest is part of user
    assert clock.steal_s == pytest.approx(0.8)
    assert clock.total_s == pytest.approx(6.93)


def test_others_are_what_was_busy_without_us_and_what_was_stolen() -> None:
    found = shares(CpuClock(100, 50, 1), CpuClock(110, 57, 2), ours_s=4)
    assert found.others == pytest.approx(0.4)  # 7 s busy less our 4 s, and 1 s stolen, of 10 s
    assert found.steal == pytest.approx(0.1)


def test_the_share_of_others_is_never_negative() -> None:
    assert shares(CpuClock(0, 0, 0), CpuClock(10, 5, 0), ours_s=5.01) == (0.0, 0.0)
    assert shares(CpuClock(1, 1, 1), CpuClock(1, 1, 1), ours_s=0) == (0.0, 0.0)


def test_a_figure_is_the_median_of_its_rounds_and_the_sum_of_its_errors() -> None:
    rounds = [{"p50_ms": value, "errors": errors} for value, errors in ((3.0, 0), (9.0, 1), (4.0, 0))]
    assert median_figure(rounds) == {"p50_ms": 4.0, "errors": 1}


def calls(**us_per_row: float) -> dict[str, dict[str, float]]:
    return {name: {"us_per_row": cost} for name, cost in us_per_row.items()}


def test_the_cost_per_row_is_followed_from_small_calls_to_large_ones() -> None:
    assert cost_per_row_step(calls(call_1000=20.0, call_100=80.0, call_10000=22.0)) == pytest.approx(1.1)
    assert cost_per_row_step(calls(call_100=80.0)) is None
    assert cost_per_row_step({}) is None


def test_rounds_become_figures_per_server_and_scenario() -> None:
    figures = summarise({"a": {"start": [{"seconds": 1.0}, {"seconds": 3.0}]}, "b": {"idle": [{"memory_mb": 5.0}]}})
    assert figures == {"a": {"start": {"seconds": 2.0}}, "b": {"idle": {"memory_mb": 5.0}}}


FIGURES = {
    "ours": {"load": {"requests_per_s": 300.0, "p50_ms": 2.0, "errors": 0.0}},
    "slow": {"load": {"requests_per_s": 50.0, "p50_ms": 9.0, "errors": 0.0}},
    "fast": {"load": {"requests_per_s": 100.0, "p50_ms": 4.0, "errors": 0.0}},
    "broken": {"load": {"requests_per_s": 9000.0, "p50_ms": 0.1, "errors": 1.0}},
}


def rate(*servers: str) -> Of:
    return Of(servers, "load", "requests_per_s")


@pytest.mark.parametrize(
    ("target", "value", "state", "stretch"),
    [
        (Target("", rate("ours"), "at least", 3.0, per=rate("slow", "fast")), 3.0, "met", None),
        (Target("", rate("ours"), "at least", 3.1, per=rate("slow", "fast")), 3.0, "short", None),
        (Target("", rate("ours"), "at least", 2.0, per=rate("fast"), stretch=4.0), 3.0, "met", "short"),
        (Target("", Of(("ours",), "load", "p50_ms"), "at most", 2.0, unit="ms", stretch=2.0), 2.0, "met", "met"),
        (
            Target("", Of(("ours",), "load", "p50_ms"), "at most", 0.4, per=Of(("slow", "fast"), "load", "p50_ms")),
            0.5,
            "short",
            None,
        ),
        (Target("", rate("ours"), "at least", 3.0, per=rate("absent")), None, "not measured", None),
        (Target("", rate("absent"), "at least", 3.0), None, "not measured", None),
        (Target("", Of(("ours",), "absent", "p50_ms"), "at most", 3.0, stretch=1.0), None, "not measured", None),
    ],
)
def test_a_target_compares_figures_of_one_run(target: Target, value: float | None, state: str, stretch: str | None) -> None:
    outcome = evaluate(FIGURES, target)
    assert outcome.value == (None if value is None else pytest.approx(value))
    assert (outcome.state, outcome.stretch_state) == (state, stretch)


def test_a_figure_with_errors_counts_for_nothing() -> None:
    assert evaluate(FIGURES, Target("", rate("broken"), "at least", 1.0)).state == "not measured"
    against = evaluate(FIGURES, Target("", rate("ours"), "at least", 1.0, per=rate("broken", "fast")))
    assert against.value == pytest.approx(3.0)


def test_every_target_asks_for_a_scenario_that_is_measured() -> None:
    scenarios = {one.name for one in (*LOADS, *CALLS, *OWN_CALLS)} | {START, IDLE, MIXED, MEMORY}
    scenarios |= {"cost_per_row", "whole_path_10000"}
    asked = {of.scenario for target in TARGETS for of in (target.figure, target.per) if of is not None}
    assert asked <= scenarios


def test_results_survive_the_file(tmp_path: Path) -> None:
    load = {"requests_per_s": 1234.56789, "errors": 0.0}
    results = summarise_run(
        seconds=5, round_count=1, titles={"serve_app": "this service"}, failures={}, rounds={"serve_app": {"start": [load]}}
    )
    save_results(results, tmp_path / "results.json")
    assert load_results(tmp_path / "results.json") == results
    assert results.figures["serve_app"]["start"]["requests_per_s"] == 1234.6
    document = json.loads((tmp_path / "results.json").read_bytes())
    assert [target["name"] for target in document["targets"]] == [outcome.target.name for outcome in outcomes(results)]


def test_the_same_results_make_the_same_chart(tmp_path: Path) -> None:
    load = {"requests_per_s": 1234.0, "errors": 0.0}
    titles = {"rival": "a rival", "serve_app": "this service", "failed": "a failure"}
    rounds = {name: {LOADS[1].name: [load]} for name in ("rival", "serve_app")}
    results = summarise_run(seconds=5, round_count=1, titles=titles, failures={"failed": "why"}, rounds=rounds)
    for name in ("one.svg", "two.svg"):
        draw_chart(results, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_the_tables_in_markdown_leave_out_what_was_not_measured() -> None:
    rounds = {
        "serve_app": {LOADS[1].name: [{"requests_per_s": 1234.4, "errors": 0.0}]},
        "rival": {LOADS[1].name: [{"requests_per_s": 99.0, "errors": 1.0}]},
    }
    titles = {"rival": "a rival", "serve_app": "this service"}
    results = summarise_run(seconds=5, round_count=1, titles=titles, failures={}, rounds=rounds)
    heading, rule, rival, own = server_table(results).splitlines()
    assert heading.count("|") == rule.count("|") == rival.count("|") == own.count("|") == 7
    assert own == "| this service | – | 1,234/s | – | – | – |"  # noqa: RUF001
    assert "99" not in rival
    assert len(target_table(results).splitlines()) == 2 + len(TARGETS)


def test_the_page_and_its_chart_show_the_committed_run(tmp_path: Path) -> None:
    results = load_results(PROJECT_ROOT / "benchmarks" / "results.json")
    page = (PROJECT_ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert server_table(results) in page
    assert target_table(results) in page
    assert results.date in page
    draw_chart(results, tmp_path / "benchmark.svg")
    assert (tmp_path / "benchmark.svg").read_bytes() == (PROJECT_ROOT / "docs" / "benchmark.svg").read_bytes()


def test_no_results_are_an_error_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="cannot be read"):
        load_results(tmp_path / "absent.json")


CONFIG: dict[str, Any] = {
    "http_options": {"host": "localhost", "port": 1313, "request_timeout_s": 60},
    "applications": [
        {
            "name": "class-prediction",
            "args": {"limits": {"max_rows": 9, "max_body_bytes": 8}},
            "deployments": [{"name": "Preprocessor", "num_replicas": 1}, {"name": "Classifier", "num_replicas": 1}],
        }
    ],
}


def test_a_variant_changes_only_what_it_names() -> None:
    variant = OwnVariant("v", "v", args={"limits": {"max_rows": 5}}, deployments={"Classifier": {"num_replicas": 2}})
    changed = own_config(CONFIG, variant, port=21300)
    assert changed["http_options"] == {"host": "127.0.0.1", "port": 21300, "request_timeout_s": 60}
    application = changed["applications"][0]
    assert application["args"] == {"limits": {"max_rows": 5, "max_body_bytes": 8}}
    assert application["deployments"] == [
        {"name": "Preprocessor", "num_replicas": 1},
        {"name": "Classifier", "num_replicas": 2},
    ]
    assert CONFIG["http_options"]["port"] == 1313  # the original is left alone


def test_the_fused_variant_has_no_classifier_deployment() -> None:
    application = own_config(CONFIG, FUSED, port=1)["applications"][0]
    assert application["args"]["topology"] == "fused"
    assert [deployment["name"] for deployment in application["deployments"]] == ["Preprocessor"]


def test_the_default_variant_is_the_projects_config_on_another_port() -> None:
    config = yaml.safe_load((PROJECT_ROOT / "config" / "serve_config.yaml").read_text())
    assert own_config(config, SPLIT, port=21300)["applications"] == config["applications"]


SCHEMA = Schema((Column("n", "numeric"), Column("m", "money"), Column("c", "categorical", levels=("a", "b"))))
ROWS = [b'{"n": 1.5, "m": "$2.00", "c": "a"}', b'{"n": null, "m": 3, "c": null}']


def test_row_objects_travel_as_they_stand() -> None:
    assert RowObjects().encode(ROWS) == b"[" + b",".join(ROWS) + b"]"
    assert json.loads(BentoRows().encode(ROWS)) == {"rows": json.loads(RowObjects().encode(ROWS))}
    assert RowObjects().read_probabilities(b'[{"probability_positiveclass": 0.25, "predicted_class": 0}]') == [0.25]


def test_tensors_hold_the_same_cells_by_column() -> None:
    inputs = json.loads(InferenceV2(SCHEMA, "glm").encode(ROWS))["inputs"]
    assert [(tensor["name"], tensor["datatype"], tensor["data"]) for tensor in inputs] == [
        ("n", "FP64", [1.5, None]),
        ("m", "BYTES", ["$2.00", "3"]),
        ("c", "BYTES", ["a", ""]),
    ]
    assert all(tensor["shape"] == [2, 1] for tensor in inputs)


def test_a_tensors_answer_is_found_by_its_name() -> None:
    answer = {"outputs": [{"name": "other", "data": [1]}, {"name": "probability_positiveclass", "data": [0.5, 1]}]}
    assert InferenceV2(SCHEMA, "glm").read_probabilities(json.dumps(answer).encode()) == [0.5, 1.0]
    with pytest.raises(ValueError, match="no tensor"):
        InferenceV2(SCHEMA, "glm").read_probabilities(b'{"outputs": []}')


def dataset(count: int) -> Dataset:
    return Dataset([b'{"n":%d}' % number for number in range(count)], np.zeros(count))


def test_bodies_begin_again_when_the_rows_are_used_up(tmp_path: Path) -> None:
    bodies = Bodies(dataset(3), RowObjects(), tmp_path)
    assert [row["n"] for row in json.loads(bodies.one(7))] == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize(("rows", "lines"), [(1, 256), (100, 20), (2500, 1)])
def test_a_file_of_bodies_has_one_per_line(tmp_path: Path, rows: int, lines: int) -> None:
    bodies = [json.loads(line) for line in Bodies(dataset(2500), RowObjects(), tmp_path).file(rows).read_bytes().splitlines()]
    assert len(bodies) == lines
    assert {len(body) for body in bodies} == {rows}


def test_rows_are_read_with_what_they_must_be_answered(tmp_path: Path) -> None:
    components = load_components(PROJECT_ROOT / "model_components")
    golden = components.manifest.golden
    path = tmp_path / "test.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode([row.row for row in golden]), indent=2))  # lines within rows
    found = read_dataset(path, 2 * len(golden), components)
    assert all(b"\n" not in row for row in found.rows)
    assert found.expected.tolist() == pytest.approx([row.probabilities[1] for row in golden] * 2, abs=1e-12)


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "generate"), (b"{}", "no JSON array"), (b"[]", "no rows"), (b"[1]", "row 0")]
)
def test_rows_that_cannot_be_used_are_refused_in_one_line(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "test.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BenchmarkError, match=reason):
        read_dataset(path, 10, load_components(PROJECT_ROOT / "model_components"))


def pins(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==(\S+)", path.read_text(), re.MULTILINE))


@pytest.mark.parametrize("rival", sorted(path.parent.name for path in RIVALS.glob("*/requirements.txt")))
def test_every_rival_has_the_versions_that_made_the_components(rival: str) -> None:
    ours, theirs = pins(PROJECT_ROOT / "requirements/serve.txt"), pins(RIVALS / rival / "requirements.txt")
    for library in ("scikit-learn", "numpy", "scipy", "joblib"):
        assert theirs[library] == ours[library]
