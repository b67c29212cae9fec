"""The published model in other versions, which answer differently, for tests of what changes while a service runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec

from serve_app.components.compiled import Components
from serve_app.components.saving import save_components
from serve_app.exercise.published_model import draft_reference, load_published_model

__all__ = ["publish_variant"]


def publish_variant(folder: Path, version: str, shift: float = 0.5, name: str = "glm-26") -> Components:
    """Writes the published model as ``version`` of ``name``, its log-odds raised by ``shift``."""
    draft = draft_reference(load_published_model(), "as_null")
    draft.model.intercept_ = draft.model.intercept_ + shift
    manifest = msgspec.structs.replace(draft.manifest, name=name, version=version)
    return save_components(folder, replace(draft, manifest=manifest))
