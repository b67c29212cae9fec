from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.component_folders import Edit, edit_manifest

from serve_app.components.golden_rows import GOLDEN_ROWS, choose_golden_rows
from serve_app.components.loading import load_components
from serve_app.errors import ComponentsError


@pytest.mark.parametrize(
    ("rows", "with_null", "chosen"),
    [
        (range(100), [], [*range(20)]),
        (range(100), range(50, 90), [*range(50, 60), *range(10)]),
        (range(100), [3, 70], [3, 70, 0, 1, 2, *range(4, 19)]),
        (range(5), [4], [4, 0, 1, 2, 3]),
        ([], [], []),
    ],
)
def test_the_first_rows_are_chosen_half_of_them_with_a_null(rows: range, with_null: range, chosen: list[int]) -> None:
    assert choose_golden_rows(rows, with_null) == chosen
    assert len(chosen) <= GOLDEN_ROWS


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda manifest: manifest["golden"][3].update(probabilities=[0.5, 0.5]), "golden row 3"),
        (lambda manifest: manifest["golden"][0]["row"].update(x53=True), "golden row 0"),
        (lambda manifest: manifest["golden"][0].update(probabilities=[0.2, 0.3, 0.5]), "do not fit|probabilities"),
    ],
)
def test_golden_rows_that_do_not_fit_are_refused_in_one_line(folder: Path, edit: Edit, said: str) -> None:
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
