"""What a replica reports about its model rather than about requests: which one it holds, and its training rows.

Owns when these gauges are set: Ray forgets one that is not set again within 20 s, so every health check sets them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ray.serve import metrics

from serve_app.components.compiled import Components
from serve_app.components.manifest import Manifest
from serve_app.serving.drift_window import DriftWindow
from serve_app.serving.metric_definitions import MODEL_INFO, PSI, TRAINING_NULL_SHARE, TRAINING_POSITIVE_SHARE, make_gauge
from serve_app.serving.replica_log import logger

__all__ = ["ModelGauges"]


class _Reading(NamedTuple):
    gauge: metrics.Gauge
    value: float
    labels: dict[str, str]


class ModelGauges:
    """The gauges of one version in one replica. A gauge that cannot be set is logged and fails no health check.

    Args:
        components: the version.
        drift: the replica's counts of that version, if its manifest describes the training rows.
    """

    def __init__(self, components: Components, drift: DriftWindow | None) -> None:
        manifest = components.manifest
        self._drift = drift
        self._psi = make_gauge(PSI)
        labels = {"model": manifest.name, "version": components.version_label, "digest": components.digest}
        self._model = _Reading(make_gauge(MODEL_INFO), 1.0, labels)
        self._training = [*_positive_share(components), *_null_shares(manifest)]

    def tell_held(self) -> None:
        """Reports that the replica holds the model."""
        self._set([self._model])

    def tell_serving(self) -> None:
        """Reports the training rows, too. Only for the version that serves, with whose rows those of requests are compared."""
        self._set([self._model, *self._training])

    def _set(self, readings: Iterable[_Reading]) -> None:
        try:
            for gauge, value, labels in readings:
                gauge.set(value, labels)
            if self._drift is not None:
                for column, value in self._drift.psi().items():
                    self._psi.set(value, {"column": column})
        except Exception:
            logger.exception("a gauge could not be set")


def _positive_share(components: Components) -> list[_Reading]:
    manifest = components.manifest
    share = manifest.training.get("positive_share", {}).get("train")
    if share is None:
        return []
    labels = {"version": components.version_label, "predicted_class": str(manifest.classes[1])}
    return [_Reading(make_gauge(TRAINING_POSITIVE_SHARE), float(share), labels)]


def _null_shares(manifest: Manifest) -> list[_Reading]:
    shares = manifest.training.get("null_shares", {})
    gauge = make_gauge(TRAINING_NULL_SHARE)
    return [_Reading(gauge, float(share), {"column": column}) for column, share in shares.items()]
