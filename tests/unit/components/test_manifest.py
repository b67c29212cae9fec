from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
from support.component_folders import Edit, edit_manifest

from serve_app.components.compiled import Components
from serve_app.components.loading import load_components
from serve_app.components.manifest import LIBRARIES, in_selected_order, library_versions
from serve_app.errors import ComponentsError


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda manifest: manifest.update(format=2), "format 2"),
        (lambda manifest: manifest.update(surprise=1), "surprise"),
        (lambda manifest: manifest.pop("threshold"), "threshold"),
        (lambda manifest: manifest.update(threshold=1.5), "threshold"),
        (lambda manifest: manifest.update(version="1\r\nx-evil: 1"), "version"),
        (lambda manifest: manifest.update(classes=[1]), "two or more"),
        (lambda manifest: manifest.update(golden=[]), "no golden rows"),
        (lambda manifest: manifest["files"].pop("scaler.pkl"), "must list the files"),
        (lambda manifest: manifest["files"].update({"../../etc/passwd": "0"}), "must list the files"),
        (lambda manifest: manifest["features"].append({"column": "nope"}), "nope"),
        (lambda manifest: manifest["selected_features"].pop(), "selected_features"),
    ],
)
def test_a_manifest_that_breaks_a_rule_is_refused_in_one_line(folder: Path, edit: Edit, said: str) -> None:
    edit_manifest(folder, edit)
    with pytest.raises(ComponentsError, match=said) as caught:
        load_components(folder)
    assert "\n" not in str(caught.value)


def test_the_versions_are_those_that_are_installed() -> None:
    versions = library_versions()
    assert versions["python"] == "3.11"
    assert {name: versions[name] for name in LIBRARIES} == {name: importlib.metadata.version(name) for name in LIBRARIES}


def test_the_selected_columns_keep_the_order_of_the_manifest(components: Components) -> None:
    manifest = components.manifest
    assert tuple(column.name for column in in_selected_order(manifest)) == manifest.selected_features
