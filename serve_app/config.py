"""Typed settings of the application: the ``args`` of config/serve_config.yaml.

Owns their names, units, defaults and bounds; an unknown key is refused. What Ray Serve itself is told (replicas, ports,
queues) is in the same file outside ``args``; operations/serve_config.py reads that.
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
"""Relative paths in the settings start from this folder, in every process of the service."""

Positive = Annotated[int, Meta(gt=0)]
Topology = Literal["split", "fused"]
Seconds = Annotated[float, Meta(ge=0)]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class BatchSettings(_Section, frozen=True):
    """How many rows of concurrent requests are merged, and how many batches are in flight."""

    max_rows: Positive = 4096
    max_concurrent_batches: Positive = 2


class ServeBatchSettings(BatchSettings, frozen=True):
    """The parameters of ``@serve.batch``."""

    max_rows: Positive = 8192
    wait_timeout_s: Seconds = 0.0


class Limits(_Section, frozen=True):
    """Limits of a request.

    ``max_held_bytes`` is the limit of all requests in a replica together; a request of up to 1 MiB is never refused for it.
    ``max_body_bytes`` holds for the body as sent and as inflated, ``max_text_characters`` for a value of a column that the
    model uses, ``max_nesting`` for arrays and objects within a row. A body may pause for ``idle_timeout_s`` and take
    ``read_timeout_s`` in total; the client has ``send_timeout_s`` to read its answers.
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
    """Who can use the service: without ``keys_file``, everyone who reaches the port.

    The limits apply to each key that has no limits of its own, in each Preprocessor replica; null means no limit.
    """

    keys_file: str | None = None
    requests_per_s: Annotated[float, Meta(gt=0)] | None = None
    requests_at_once: Positive | None = None


class Settings(_Section, frozen=True):
    """All of ``args``.

    In the ``split`` topology, preprocessors call classifiers, which scale separately; in ``fused``, each preprocessor holds
    the model, which saves the hop. Components are loaded only if their manifest has the digest ``components_sha256`` and is
    signed by ``components_public_key``, a PEM file of Ed25519; null means any.
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
        SettingsError: an unknown key, or a value of the wrong type or out of bounds; the message names it.
    """
    try:
        return msgspec.convert(args, Settings)
    except msgspec.ValidationError as error:
        raise SettingsError(f"the application's args cannot be used: {error}") from error


def resolve_path(path: str | Path) -> Path:
    """``path`` itself if it is absolute, otherwise below the project's root."""
    return PROJECT_ROOT / path
