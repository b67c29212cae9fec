"""The metrics of a real service, compared with what it was sent and with docs/metrics.md."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import requests
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from support.applications import Applications
from support.serving import wait_until

from serve_app.config import PROJECT_ROOT

PREFIX = "ray_class_prediction_"
SHADOW = f"{PREFIX}shadow_"  # told only while there is one; tests/unit/serving/test_metrics.py compares them with the table
RAYS_LABELS = {"Component", "NodeAddress", "SessionName", "Version", "WorkerId", "application", "deployment", "replica"}
APPLICATION = "measured"
REPORT_TIMEOUT_S = 60


class MeasuredServer:
    """A service with a model that was trained here, and its Prometheus page."""

    def __init__(self, applications: Applications) -> None:
        server = applications.at(APPLICATION)
        self.components = applications.measured
        self.predict = server.predict
        self._ready = f"{server.url}/ready"
        self._url = f"http://127.0.0.1:{applications.metrics_port}/metrics"

    def families(self) -> dict[str, Metric]:
        """Our metrics, by the name that the page declares."""
        page = requests.get(self._url, timeout=30).text.splitlines(keepends=True)
        ours = "".join(line for line in page if PREFIX in line)  # Ray's own are many more
        return {family.name: family for family in text_string_to_metric_families(ours)}

    def value(self, name: str, **labels: str) -> float:
        """The sum of the application's series of that name and those labels; 0 while there is none."""
        labels["application"] = APPLICATION
        return sum(
            sample.value
            for family in self.families().values()
            for sample in family.samples
            if sample.name == PREFIX + name and labels.items() <= sample.labels.items()
        )

    def wait_for_report(self) -> None:
        """Returns when the replicas have reported once more, told by a batch of golden rows."""
        before = self.value("batch_rows_count")
        assert requests.get(self._ready, timeout=30).status_code == 200
        wait_until(lambda: self.value("batch_rows_count") >= before + 2, "the next report", REPORT_TIMEOUT_S)


@pytest.fixture(scope="module")
def measured(applications: Applications) -> MeasuredServer:
    return MeasuredServer(applications)


def test_rows_nulls_unknown_categories_and_refusals_are_counted(measured: MeasuredServer, example: dict[str, Any]) -> None:
    numeric, other, *_ = [column for column in measured.components.encoder.columns if column.kind == "numeric"]
    (category, *_) = [column for column in measured.components.encoder.columns if column.is_categorical]
    null, unknown = {**example, numeric.name: None}, {**example, category.name: "nowhere"}
    counted = {
        ("rows_scored_total", ""): 8,
        ("nulls_total", f"column={numeric.name}"): 2,
        ("nulls_total", f"column={category.name}"): 1,
        ("unknown_categories_total", f"column={category.name}"): 3,
        ("rows_refused_total", "reason=not_a_number"): 2,
        ("rows_refused_total", "reason=not_an_object"): 1,
    }

    def values() -> dict[tuple[str, str], float]:
        return {(name, label): measured.value(name, **dict([label.split("=")] if label else [])) for name, label in counted}

    before = values()
    assert measured.predict(json.dumps([example, null, null, {**example, category.name: ""}])).status_code == 200
    assert measured.predict(json.dumps([unknown, unknown, unknown])).status_code == 200
    wrong_twice = {**example, numeric.name: "abc", other.name: {}}
    assert measured.predict(json.dumps([wrong_twice, 7, example]), params={"on_error": "report"}).status_code == 200
    assert measured.predict(json.dumps([{**example, numeric.name: "abc"}])).status_code == 422

    def difference() -> dict[tuple[str, str], float]:
        return {key: value - before[key] for key, value in values().items()}

    wait_until(lambda: difference()["rows_scored_total", ""] >= 8, "the report of eight rows", REPORT_TIMEOUT_S)
    wait_until(lambda: difference() == counted, f"{counted}, not {difference()},", REPORT_TIMEOUT_S)


def test_the_classes_of_rows_and_the_sizes_of_batches_are_told(measured: MeasuredServer) -> None:
    manifest = measured.components.manifest
    golden_rows = manifest.golden * 2  # more than the twenty of GET /ready
    rows = [{**golden.row} for golden in golden_rows]
    assert 20 < len(rows) <= 50
    positive = sum(golden.probabilities[1] >= manifest.threshold for golden in golden_rows)
    assert 0 < positive < len(rows)
    before = [measured.value("rows_scored_total", predicted_class=name) for name in ("0", "1")]
    answers = measured.predict(json.dumps(rows)).json()
    assert sum(answer["predicted_class"] == 1 for answer in answers) == positive
    expected = [before[0] + len(rows) - positive, before[1] + positive]

    def found() -> list[float]:
        return [measured.value("rows_scored_total", predicted_class=name) for name in ("0", "1")]

    wait_until(lambda: found() == expected, f"{expected} rows of the two classes", REPORT_TIMEOUT_S)
    wait_until(
        lambda: (
            measured.value("batch_rows_bucket", deployment="Classifier", le="20.0")
            < measured.value("batch_rows_bucket", deployment="Classifier", le="50.0")
        ),
        f"a batch of {len(rows)} rows in the classifier",
        REPORT_TIMEOUT_S,
    )


def test_the_model_and_its_training_are_told_also_while_nothing_is_asked(measured: MeasuredServer) -> None:
    manifest = measured.components.manifest
    told = {
        "model": "trained-here",
        "version": measured.components.version_label,
        "digest": measured.components.digest,
    }
    for _ in range(3):  # longer than Ray remembers what it is told once
        measured.wait_for_report()
        assert measured.value("model_info", **told) == 2
    assert measured.value("training_positive_share", predicted_class="1") == manifest.training["positive_share"]["train"]
    for column, share in manifest.training["null_shares"].items():
        assert measured.value("training_null_share", deployment="Preprocessor", column=column) == share


def test_the_table_of_metrics_is_what_is_exported(measured: MeasuredServer) -> None:
    # The last test of this module: by now everything has been counted that is counted.
    text = (PROJECT_ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    listed = {
        name: (kind, set(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in re.findall(rf"^\| `({PREFIX}\w+)` \| (\w+) \|([^|]*)\|", text, re.MULTILINE)
    }
    exported = {}
    for name, family in measured.families().items():
        labels = set().union(*(sample.labels for sample in family.samples)) - RAYS_LABELS - {"le"}
        full_name = name + "_total" if family.type == "counter" else name
        exported[full_name] = (family.type, {label for label in labels if not label.startswith("otel_scope_")})
    listed, exported = (
        {name: said for name, said in table.items() if not name.startswith(SHADOW)} for table in (listed, exported)
    )
    assert listed == exported
    for family in measured.families().values():
        for sample in family.samples:
            assert set(sample.labels) >= RAYS_LABELS


@pytest.mark.parametrize(
    "path",
    ["docs/metrics.md", "monitoring/prometheus/alerts.yml", "monitoring/grafana/dashboards/class-prediction.json"],
)
def test_what_is_asked_of_prometheus_is_exported(measured: MeasuredServer, path: str) -> None:
    exported = {sample.name for family in measured.families().values() for sample in family.samples} | set(measured.families())
    text = (PROJECT_ROOT / path).read_text(encoding="utf-8")
    named = {name for name in re.findall(rf"{PREFIX}\w+", text) if not name.startswith(SHADOW)}
    assert len(named) > 3
    assert named <= exported
