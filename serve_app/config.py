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

__all__ = [
    "PROJECT_ROOT",
    "AccessSettings",
    "BatchSettings",
    "Limits",
    "ServeBatchSettings",
    "Settings",
    "load_settings",
    "resolve_path",
]

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

    ``max_held_bytes`` is of all requests of a replica together; none of up to 1 MiB is refused for it. ``max_body_bytes`` holds
    for the body as it comes and for what it inflates to; ``max_text_characters`` for a value of a column that the model uses;
    ``max_nesting`` for arrays and objects within a row. A body may pause for ``idle_timeout_s`` and take ``read_timeout_s`` in
    all; the client has ``send_timeout_s`` to take its answers.
    """

    max_body_bytes: Positive = 256 * 1024 * 1024
    max_held_bytes: Positive = 1024 * 1024 * 1024
    max_rows: Positive = 200_000
    max_text_characters: Positive = 1000
    max_nesting: Annotated[int, Meta(gt=0, le=200)] = 32
    max_explained_rows: Positive = 1000
    idle_timeout_s: Seconds = 10.0
    read_timeout_s: Seconds = 300.0
    score_timeout_s: Seconds = 60.0
    send_timeout_s: Seconds = 300.0
    ready_timeout_s: Seconds = 5.0


class AccessSettings(_Section, frozen=True):
    """Who may ask. Without ``keys_file``, everybody who reaches the port.

    The other two hold for each key that has none of its own, in each Preprocessor replica; null is no limit.
    """

    keys_file: str | None = None
    requests_per_s: Annotated[float, Meta(gt=0)] | None = None
    requests_at_once: Positive | None = None


class Settings(_Section, frozen=True):
    """All of ``args``.

    ``topology``: in ``split``, preprocessors call classifiers, which scale by themselves; in ``fused``, each preprocessor
    holds the model, which saves the hop. ``components_sha256``, of the manifest, and ``components_public_key``, a PEM file of
    Ed25519 that the manifest must be signed by, say which components may be loaded; null is any.
    """

    components: str = "model_components"
    components_sha256: Annotated[str, Meta(pattern="^[0-9a-fA-F]{64}$")] | None = None
    components_public_key: str | None = None
    topology: Topology = "split"
    limits: Limits = Limits()
    access: AccessSettings = AccessSettings()
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
