"""The label that tells two models apart even if they share a version."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from serve_app.components.compiled import Components


@pytest.mark.parametrize(
    ("version", "label"),
    [("1.0.0", "1.0.0+ab12cd34"), ("1.0.0+linux", "1.0.0+linux.ab12cd34"), ("2024-05", "2024-05+ab12cd34")],
)
def test_the_digest_is_build_metadata_of_the_version(components: Components, version: str, label: str) -> None:
    manifest = msgspec.structs.replace(components.manifest, version=version)
    assert replace(components, manifest=manifest, digest="ab12cd34ef" + 54 * "0").version_label == label
