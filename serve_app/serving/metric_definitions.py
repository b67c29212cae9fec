"""The service's own metrics: their names, labels and descriptions, as Prometheus shows them. docs/metrics.md explains each.

Owns the table and nothing that counts. Ray adds the prefix ``ray_`` and, to a counter, the suffix ``_total``.
"""

from __future__ import annotations

from typing import NamedTuple

from ray.serve import metrics

__all__ = [
    "BATCH_ROWS",
    "DECODE_SECONDS",
    "MODEL_INFO",
    "NULLS",
    "PSI",
    "ROWS_REFUSED",
    "ROWS_SCORED",
    "SCORE_SECONDS",
    "SHADOW_DIFFERENCE",
    "SHADOW_DISAGREEMENTS",
    "SHADOW_ROWS",
    "SHADOW_SKIPPED",
    "TRAINING_NULL_SHARE",
    "TRAINING_POSITIVE_SHARE",
    "TRANSFORM_SECONDS",
    "UNKNOWN_CATEGORIES",
    "VERSION_UNAVAILABLE",
    "MetricDefinition",
    "make_counter",
    "make_gauge",
    "make_histogram",
]


class MetricDefinition(NamedTuple):
    """One metric. ``boundaries`` are the upper bounds of a histogram's buckets."""

    name: str
    description: str
    labels: tuple[str, ...] = ()
    boundaries: tuple[float, ...] = ()


ROWS_SCORED = MetricDefinition("rows_scored", "Scored rows, by predicted class.", ("version", "predicted_class"))
ROWS_REFUSED = MetricDefinition("rows_refused", "Rows that could not be scored, by their first problem.", ("version", "reason"))
NULLS = MetricDefinition("nulls", "Null or empty cells of scored rows.", ("column",))
UNKNOWN_CATEGORIES = MetricDefinition(
    "unknown_categories", "Cells of scored rows whose category the model does not know, scored as nulls.", ("column",)
)
DECODE_SECONDS = MetricDefinition("decode_seconds", "Seconds spent on decoding and checking the JSON of requests.")
TRANSFORM_SECONDS = MetricDefinition("transform_seconds", "Seconds spent on turning rows into features.")
SCORE_SECONDS = MetricDefinition("score_seconds", "Seconds spent on scoring features.")
BATCH_ROWS = MetricDefinition(
    "batch_rows",
    "Rows that were processed together.",
    boundaries=(1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0),
)
MODEL_INFO = MetricDefinition(
    "model_info", "1, with the model's name, version and digest as labels.", ("model", "version", "digest")
)
TRAINING_POSITIVE_SHARE = MetricDefinition(
    "training_positive_share",
    "Share of positives among the training rows, labelled with their class as in rows_scored.",
    ("version", "predicted_class"),
)
TRAINING_NULL_SHARE = MetricDefinition("training_null_share", "Share of nulls in a column of the training rows.", ("column",))
PSI = MetricDefinition("psi", "Population stability index of a column's values, from this replica's rows alone.", ("column",))
VERSION_UNAVAILABLE = MetricDefinition(
    "version_unavailable", "1 if the replica cannot use the version that the rollout names for this role, else 0.", ("role",)
)
SHADOW_ROWS = MetricDefinition("shadow_rows", "Rows that the shadow scored as well.", ("version",))
SHADOW_DISAGREEMENTS = MetricDefinition(
    "shadow_disagreements", "Rows for which the shadow predicts another class.", ("version",)
)
SHADOW_SKIPPED = MetricDefinition(
    "shadow_skipped", "Requests that the shadow should have scored and did not, by reason.", ("version", "reason")
)
SHADOW_DIFFERENCE = MetricDefinition(
    "shadow_difference",
    "Largest difference of a row's probabilities from those that the client got.",
    ("version",),
    boundaries=(1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
)


def make_counter(definition: MetricDefinition) -> metrics.Counter:
    """Ray's counter of this definition. Those of one name share their series within a process."""
    return metrics.Counter(_full_name(definition), description=definition.description, tag_keys=definition.labels)


def make_gauge(definition: MetricDefinition) -> metrics.Gauge:
    """Ray's gauge of this definition."""
    return metrics.Gauge(_full_name(definition), description=definition.description, tag_keys=definition.labels)


def make_histogram(definition: MetricDefinition) -> metrics.Histogram:
    """Ray's histogram of this definition."""
    return metrics.Histogram(
        _full_name(definition),
        description=definition.description,
        boundaries=list(definition.boundaries),
        tag_keys=definition.labels,
    )


def _full_name(definition: MetricDefinition) -> str:
    return f"class_prediction_{definition.name}"
