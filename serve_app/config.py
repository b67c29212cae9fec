"""Typed settings of the application: the ``args`` of config/serve_config.yaml.

Owns their names, units, defaults and bounds; an unknown key is refused. What Ray Serve itself is told (replicas, ports,
queues) stands in the same file, outside ``args``, and is Ray's to check.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from serve_app.errors import SettingsError

__all__ = ["PROJECT_ROOT", "BatchSettings", "Limits", "ServeBatchSettings", "Settings", "load_settings", "resolve_path"]

PROJECT_ROOT = Path(__file__).resolve().parent.parent
"""The folder that relative paths in the settings start from, wherever a replica happens to run."""

Positive = Annotated[int, Meta(gt=0)]
Topology = Literal["split", "fused"]
Seconds = Annotated[float, Meta(ge=0)]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class BatchSettings(_Section, frozen=True):
    """How much concurrent work is merged, weighed in rows."""

    max_rows: Positive = 4096
    max_concurrent_batches: Positive = 2


class ServeBatchSettings(BatchSettings, frozen=True):
    """The same as the parameters of ``@serve.batch``."""

    max_rows: Positive = 8192
    wait_timeout_s: Seconds = 0.0


class Limits(_Section, frozen=True):
    """What one request may ask for.

    A body may pause for ``idle_timeout_s`` and take ``read_timeout_s`` in all.
    """

    max_body_bytes: Positive = 256 * 1024 * 1024
    max_rows: Positive = 200_000
    idle_timeout_s: Seconds = 10.0
    read_timeout_s: Seconds = 300.0
    score_timeout_s: Seconds = 60.0
    ready_timeout_s: Seconds = 5.0


class Settings(_Section, frozen=True):
    """All of ``args``.

    ``topology``: in ``split``, preprocessors call classifiers, which scale by themselves; in ``fused``, each preprocessor
    holds the model, which saves the hop.
    """

    components: str = "model_components"
    topology: Topology = "split"
    limits: Limits = Limits()
    preprocessor_batches: BatchSettings = BatchSettings()
    classifier_batches: ServeBatchSettings = ServeBatchSettings()

    def __post_init__(self) -> None:
        if self.classifier_batches.max_rows < self.preprocessor_batches.max_rows:
            raise ValueError("classifier_batches.max_rows is less than preprocessor_batches.max_rows")


def load_settings(args: dict[str, Any]) -> Settings:
    """``args`` as typed settings.

    Raises:
        SettingsError: an unknown key, a value of the wrong type or out of bounds; the sentence names it.
    """
    try:
        return msgspec.convert(args, Settings)
    except msgspec.ValidationError as error:
        raise SettingsError(f"the application's args cannot be used: {error}") from error


def resolve_path(path: str | Path) -> Path:
    """``path`` itself when absolute, otherwise below the project's root."""
    return PROJECT_ROOT / path
