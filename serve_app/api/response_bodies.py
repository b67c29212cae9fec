"""The JSON bodies of every response but answers (scoring/answers.py) and errors (errors.py), as typed shapes.

The OpenAPI document is made of these shapes, so it cannot say anything else than what is sent.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from serve_app.components.compiled import Components
from serve_app.components.manifest import Manifest
from serve_app.scoring.schema import Schema
from serve_app.serving.drift_window import WindowDrift
from serve_app.serving.rollout import RolloutDescription

__all__ = ["DriftBody", "HealthBody", "ModelBody", "ReadyBody", "drift_body", "model_body"]


class HealthBody(msgspec.Struct, frozen=True):
    """The process is alive."""

    status: Literal["live"]


class ReadyBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether golden rows, sent through both deployments, get their recorded answers.

    ``fallback`` is true if another version answers than the one that should serve, which cannot be used.
    """

    status: Literal["ready", "not ready"]
    fallback: bool = False


class ModelBody(msgspec.Struct, frozen=True, kw_only=True):
    """The model that serves, and which versions are in use for what."""

    name: str
    version: str
    digest: str
    classes: tuple[int | float | str | bool, ...]
    threshold: float
    scored_by: str
    selected_features: tuple[str, ...]
    schema: Schema
    training: dict[str, Any]
    rollout: RolloutDescription


class ColumnDrift(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The population stability index of one column or of the score, and the shares of rows that it is made of.

    With too few rows the shares are left out.
    """

    psi: float
    verdict: str
    by_chance: float
    missing: float | msgspec.UnsetType = msgspec.UNSET
    missing_in_training: float | msgspec.UnsetType = msgspec.UNSET
    shares: list[float] | msgspec.UnsetType = msgspec.UNSET
    quantiles: list[float] | msgspec.UnsetType = msgspec.UNSET
    quantiles_in_training: list[float] | msgspec.UnsetType = msgspec.UNSET


class DriftBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far the rows of the last ``window_seconds`` have moved from the training rows."""

    model: str
    version: str
    window_seconds: int
    replicas: int
    training_rows: int
    rows: int
    columns: dict[str, ColumnDrift]
    score: ColumnDrift | None


def model_body(components: Components, rollout: RolloutDescription) -> ModelBody:
    """The body of ``GET /model``."""
    manifest = components.manifest
    return ModelBody(
        name=manifest.name,
        version=manifest.version,
        digest=components.digest,
        classes=manifest.classes,
        threshold=manifest.threshold,
        scored_by=components.scorer.scored_by,
        selected_features=manifest.selected_features,
        schema=manifest.schema,
        training=manifest.training,
        rollout=rollout,
    )


def drift_body(manifest: Manifest, report: WindowDrift) -> DriftBody:
    """The body of ``GET /drift``."""
    return msgspec.convert({"model": manifest.name, "version": manifest.version, **msgspec.to_builtins(report)}, DriftBody)
