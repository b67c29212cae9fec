from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import joblib
import pytest
from support.component_folders import Edit, adapt_manifest, digest_of, edit_manifest, malicious, replace_pickle

from serve_app.components import loading
from serve_app.components.loading import load_components
from serve_app.errors import ComponentsError


@pytest.mark.parametrize("name", ["imputer.pkl", "scaler.pkl", "model.pkl"])
def test_a_changed_byte_is_found_before_anything_is_unpickled(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    monkeypatch.setattr(joblib, "load", lambda _: pytest.fail("unpickled"))
    with pytest.raises(ComponentsError, match=f"{name}.*SHA-256"):
        load_components(folder)


def test_the_payload_works_where_nothing_is_asked_for(folder: Path, proof: Path) -> None:
    # Otherwise the tests below would prove nothing. Whoever may write both files is trusted, unless the settings pin or sign.
    (folder / "model.pkl").write_bytes(malicious(proof))
    adapt_manifest(folder, "model.pkl")
    with pytest.raises(ComponentsError, match="do not fit"):
        load_components(folder)
    assert proof.exists()


@pytest.mark.parametrize("name", ["imputer.pkl", "scaler.pkl", "model.pkl"])
def test_a_pickle_of_another_digest_is_not_executed(folder: Path, proof: Path, name: str) -> None:
    (folder / name).write_bytes(malicious(proof))
    with pytest.raises(ComponentsError, match="SHA-256"):
        load_components(folder)
    assert not proof.exists()


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda manifest: manifest["libraries"].update({"scikit-learn": "0.20"}), "scikit-learn 0.20"),
        (lambda manifest: manifest["libraries"].pop("numpy"), "numpy None"),
    ],
)
def test_pickles_of_other_library_versions_are_refused_in_one_line(folder: Path, edit: Edit, said: str) -> None:
    edit_manifest(folder, edit)
    with pytest.raises(ComponentsError, match=said) as caught:
        load_components(folder)
    assert "\n" not in str(caught.value)


def test_other_estimators_in_the_pickles_are_refused(folder: Path) -> None:
    model = joblib.load(folder / "model.pkl")
    model.coef_ = model.coef_ + 1e-9
    replace_pickle(folder, "model.pkl", model)
    with pytest.raises(ComponentsError, match="golden row"):
        load_components(folder)
    replace_pickle(folder, "model.pkl", {"not": "a model"})
    with pytest.raises(ComponentsError, match="do not fit"):
        load_components(folder)


@pytest.mark.parametrize("name", ["manifest.json", "imputer.pkl", "scaler.pkl", "model.pkl"])
def test_a_missing_or_cut_file_is_refused_by_name(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:100])
    with pytest.raises(ComponentsError, match=name):
        load_components(folder)
    (folder / name).unlink()
    with pytest.raises(ComponentsError, match=f"{name}.*No such file"):
        load_components(folder)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ComponentsError, match="No such file"):
        load_components(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["manifest.json", "model.pkl"])
def test_a_link_that_leads_out_of_the_folder_is_not_followed(folder: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    (folder / name).rename(outside)  # the right content: only the way to it is wrong
    (folder / name).symlink_to(outside)
    with pytest.raises(ComponentsError, match=f"{name}: is a link to a file outside of the folder"):
        load_components(folder)
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    with pytest.raises(ComponentsError, match="outside of the folder"):
        load_components(folder)


def test_a_pipe_in_a_files_place_keeps_nobody_waiting(folder: Path) -> None:
    (folder / "model.pkl").unlink()
    os.mkfifo(folder / "model.pkl")
    with pytest.raises(ComponentsError, match="is not a regular file"):
        load_components(folder)


def test_links_within_the_folder_work_as_where_a_volume_is_mounted(folder: Path) -> None:
    (folder / "..data").mkdir()
    for name in ("manifest.json", "imputer.pkl", "scaler.pkl", "model.pkl"):
        (folder / name).rename(folder / "..data" / name)
        (folder / name).symlink_to(Path("..data") / name)
    assert load_components(folder).digest == digest_of(folder)


def test_a_file_that_is_swapped_between_check_and_load_is_not_the_one_that_is_loaded(
    folder: Path, proof: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, swapped = loading._check_libraries, []

    def swap_then_check(*arguments: Any) -> None:  # it runs when all digests have been compared
        for name in ("imputer.pkl", "scaler.pkl", "model.pkl"):
            (folder / name).write_bytes(malicious(proof))
            swapped.append(name)
        real(*arguments)

    monkeypatch.setattr(loading, "_check_libraries", swap_then_check)
    assert load_components(folder).digest == digest_of(folder)
    assert len(swapped) == 3
    assert not proof.exists()
