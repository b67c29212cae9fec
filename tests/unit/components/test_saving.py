from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from support.scoring import score

from serve_app.components.compiled import Components, compile_draft
from serve_app.components.loading import load_components
from serve_app.components.saving import save_components
from serve_app.errors import ComponentsError
from serve_app.exercise.published_model import PublishedModel, draft_reference


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


def test_what_is_saved_scores_as_the_draft_does(tmp_path: Path, published: PublishedModel, make_rows: Any) -> None:
    draft = draft_reference(published)
    rows = make_rows(50, 1)
    assert np.array_equal(score(save_components(tmp_path / "new", draft), rows), score(compile_draft(draft), rows))


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path, published: PublishedModel) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ComponentsError, match="contains files that are not"):
        save_components(tmp_path, draft_reference(published))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_that_only_looks_like_components_is_never_replaced(folder: Path, published: PublishedModel) -> None:
    (folder / "notes.txt").write_text("precious")
    with pytest.raises(ComponentsError, match="contains files that are not"):
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
