from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.scoring import score

from serve_app.components.compiled import Components, compile_draft
from serve_app.components.loading import load_components
from serve_app.components.saving import save_components
from serve_app.errors import ComponentsError
from serve_app.exercise.published_model import PublishedModel, draft_reference

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def folder(tmp_path: Path, components_folder: Path) -> Path:
    return Path(shutil.copytree(components_folder, tmp_path / "components"))


def edit_manifest(folder: Path, edit: Edit) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    edit(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def replace_pickle(folder: Path, name: str, value: object) -> None:
    """Puts another object in the place of one and adapts the digest, as somebody with bad intent or a mistake would."""
    buffer = io.BytesIO()
    joblib.dump(value, buffer)
    (folder / name).write_bytes(buffer.getvalue())
    edit_manifest(folder, lambda manifest: manifest["files"].update({name: hashlib.sha256(buffer.getvalue()).hexdigest()}))


def test_the_committed_components_are_those_of_the_published_figures(
    components_folder: Path, tmp_path: Path, published: PublishedModel
) -> None:
    save_components(tmp_path / "made", draft_reference(published))
    made, committed = (json.loads((folder / "manifest.json").read_text()) for folder in (tmp_path / "made", components_folder))
    for ours, theirs in zip(made.pop("golden"), committed.pop("golden"), strict=True):
        assert ours["row"] == theirs["row"]
        assert ours["probabilities"] == pytest.approx(theirs["probabilities"], abs=1e-14)  # BLAS rounds by processor
    assert made.pop("files").keys() == committed.pop("files").keys()  # the bytes of equal pickles may differ
    assert made == committed
    for name, attribute in (("imputer", "statistics_"), ("scaler", "mean_"), ("scaler", "scale_"), ("model", "coef_")):
        ours, theirs = (
            getattr(joblib.load(folder / f"{name}.pkl"), attribute) for folder in (tmp_path / "made", components_folder)
        )
        assert np.array_equal(ours, theirs)


def test_the_example_row_gets_the_published_probability(components: Components, example: dict[str, Any]) -> None:
    assert score(components, [example])[0, 1] == pytest.approx(0.36208864382410294, abs=1e-15)


def test_what_is_saved_scores_as_the_draft_does(tmp_path: Path, published: PublishedModel, make_rows: Any) -> None:
    draft = draft_reference(published)
    rows = make_rows(50, 1)
    assert np.array_equal(score(save_components(tmp_path / "new", draft), rows), score(compile_draft(draft), rows))


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


@pytest.mark.parametrize("name", ["imputer.pkl", "scaler.pkl", "model.pkl"])
def test_a_changed_byte_is_found_before_anything_is_unpickled(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    monkeypatch.setattr(joblib, "load", lambda _: pytest.fail("unpickled"))
    with pytest.raises(ComponentsError, match=f"{name}.*SHA-256"):
        load_components(folder)


class Payload:
    """Harmless: makes a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.proof),)


def test_a_pickle_with_another_digest_is_never_executed(folder: Path, tmp_path: Path) -> None:
    joblib.dump(Payload(tmp_path / "executed"), folder / "scaler.pkl")
    with pytest.raises(ComponentsError, match="SHA-256"):
        load_components(folder)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda manifest: manifest.update(format=2), "format 2"),
        (lambda manifest: manifest.update(surprise=1), "surprise"),
        (lambda manifest: manifest.pop("threshold"), "threshold"),
        (lambda manifest: manifest.update(threshold=1.5), "threshold"),
        (lambda manifest: manifest.update(version="1\r\nx-evil: 1"), "version"),
        (lambda manifest: manifest.update(classes=[1]), "two or more"),
        (lambda manifest: manifest.update(classes=["no", "yes"]), "other classes"),
        (lambda manifest: manifest.update(golden=[]), "no golden rows"),
        (lambda manifest: manifest["files"].pop("scaler.pkl"), "other files"),
        (lambda manifest: manifest["files"].update({"../../etc/passwd": "0"}), "other files"),
        (lambda manifest: manifest["libraries"].update({"scikit-learn": "0.20"}), "scikit-learn 0.20"),
        (lambda manifest: manifest["libraries"].pop("numpy"), "numpy None"),
        (lambda manifest: manifest["features"].reverse(), "other columns"),
        (lambda manifest: manifest["features"].append({"column": "nope"}), "nope"),
        (lambda manifest: manifest["schema"]["columns"].pop(0), "other columns"),
        (lambda manifest: manifest["schema"]["columns"][5]["levels"].remove("sunday"), "do not fit"),
        (lambda manifest: manifest["selected_features"].pop(), "selected_features"),
        (lambda manifest: manifest["golden"][3].update(probabilities=[0.5, 0.5]), "golden row 3"),
        (lambda manifest: manifest["golden"][0]["row"].update(x53=True), "golden row 0"),
        (lambda manifest: manifest["golden"][0].update(probabilities=[0.2, 0.3, 0.5]), "do not fit|probabilities"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused_in_one_line(folder: Path, edit: Edit, said: str) -> None:
    edit_manifest(folder, edit)
    with pytest.raises(ComponentsError, match=said) as caught:
        load_components(folder)
    assert "\n" not in str(caught.value)


def test_a_golden_row_that_differs_by_more_than_rounding_is_refused(folder: Path) -> None:
    def nudge(manifest: dict[str, Any]) -> None:
        negative, positive = manifest["golden"][1]["probabilities"]
        manifest["golden"][1]["probabilities"] = [negative - 3e-12, positive + 3e-12]

    edit_manifest(folder, nudge)
    with pytest.raises(ComponentsError, match="golden row 1 differs by 3e-12"):
        load_components(folder)


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


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path, published: PublishedModel) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ComponentsError, match="holds other files"):
        save_components(tmp_path, draft_reference(published))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_that_only_looks_like_components_is_never_replaced(folder: Path, published: PublishedModel) -> None:
    (folder / "notes.txt").write_text("precious")
    with pytest.raises(ComponentsError, match="holds other files"):
        save_components(folder, draft_reference(published))
    (folder / "notes.txt").unlink()
    (folder / "manifest.json").write_text('{"name": "a web application"}')
    with pytest.raises(ComponentsError, match="cannot be read"):
        save_components(folder, draft_reference(published))
    assert (folder / "manifest.json").read_text() == '{"name": "a web application"}'


def test_a_link_to_components_stays_a_link(folder: Path, published: PublishedModel) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder)
    save_components(link, draft_reference(published, "reject"))
    assert link.is_symlink()
    assert load_components(folder).manifest.schema.column("x5").unknown == "reject"


def test_saving_replaces_the_old_components_and_leaves_nothing_else(folder: Path, published: PublishedModel) -> None:
    save_components(folder, draft_reference(published, "reject"))
    assert load_components(folder).manifest.schema.column("x5").unknown == "reject"
    assert [path.name for path in folder.parent.iterdir()] == ["components"]
    assert sorted(path.name for path in folder.iterdir()) == ["imputer.pkl", "manifest.json", "model.pkl", "scaler.pkl"]


CRASH = """
import os, sys
from pathlib import Path
from serve_app.components.saving import save_components
from serve_app.exercise.published_model import draft_reference, load_published_model

def crash(event, args):
    # The {when} file that is opened for writing, or the moment before the folders change places.
    global opened
    if event == "open" and isinstance(args[0], str) and "/.components." in args[0] and args[1] and "w" in args[1]:
        opened += 1
        if opened == {when}:
            os._exit(9)
    if event == "ctypes.dlopen" and {when} == 5:
        os._exit(9)

opened = 0
sys.addaudithook(crash)
save_components(Path(sys.argv[1]), draft_reference(load_published_model(), "reject"))
"""


@pytest.mark.parametrize("when", [1, 2, 3, 4, 5])
def test_a_crash_while_saving_leaves_the_old_components_intact(folder: Path, components: Components, when: int) -> None:
    done = subprocess.run([sys.executable, "-c", CRASH.replace("{when}", str(when)), str(folder)], check=False)
    assert done.returncode == 9
    assert load_components(folder).digest == components.digest
