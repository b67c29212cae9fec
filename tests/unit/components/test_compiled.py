from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.component_folders import Edit, edit_manifest
from support.scoring import score

from serve_app.components.compiled import Components
from serve_app.components.loading import load_components
from serve_app.errors import ComponentsError


@pytest.mark.parametrize(
    ("version", "label"),
    [("1.0.0", "1.0.0+ab12cd34"), ("1.0.0+linux", "1.0.0+linux.ab12cd34"), ("2024-05", "2024-05+ab12cd34")],
)
def test_the_digest_is_build_metadata_of_the_version(components: Components, version: str, label: str) -> None:
    manifest = msgspec.structs.replace(components.manifest, version=version)
    assert replace(components, manifest=manifest, digest="ab12cd34ef" + 54 * "0").version_label == label


def test_the_example_row_gets_the_published_probability(components: Components, example: dict[str, Any]) -> None:
    assert score(components, [example])[0, 1] == pytest.approx(0.36208864382410294, abs=1e-15)


@pytest.fixture(scope="module")
def many_rows(make_rows: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = make_rows(300, 2)
    return rows


@given(cuts=st.lists(st.integers(0, 300), max_size=6))
@settings(max_examples=30)
def test_a_row_has_one_answer_whatever_it_travels_with(
    components: Components, many_rows: list[dict[str, Any]], cuts: list[int]
) -> None:
    together = score(components, many_rows)
    edges = [0, *sorted(cuts), len(many_rows)]
    pieces = [score(components, many_rows[a:b]) for a, b in itertools.pairwise(edges) if b > a]
    assert np.array_equal(np.concatenate(pieces), together)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda manifest: manifest.update(classes=["no", "yes"]), "other classes"),
        (lambda manifest: manifest["features"].reverse(), "other columns"),
        (lambda manifest: manifest["schema"]["columns"].pop(0), "other columns"),
        (lambda manifest: manifest["schema"]["columns"][5]["levels"].remove("sunday"), "do not fit"),
    ],
)
def test_estimators_that_do_not_fit_the_manifest_are_refused_in_one_line(folder: Path, edit: Edit, said: str) -> None:
    edit_manifest(folder, edit)
    with pytest.raises(ComponentsError, match=said) as caught:
        load_components(folder)
    assert "\n" not in str(caught.value)
