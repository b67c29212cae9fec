from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.own_tables import mixed_table, write_csv
from support.scoring import score

from serve_app.components.saving import save_components
from serve_app.errors import SettingsError, TableError
from serve_app.training.tables import Table, read_table
from serve_app.training.target import read_target
from serve_app.training.threshold import ThresholdRule
from serve_app.training.train import train


def target_of(cells: list[str], positive: str | None = None) -> tuple[tuple[Any, ...], list[int]]:
    found = read_target(Table(Path("t"), {"y": cells}), "y", positive)
    return found.classes, found.codes.tolist()


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        ([True, False], (False, True)),
        ([1, 0], (0, 1)),
        ([1.0, 0.0], (0, 1)),
        ([0.5, 1.25], (0.5, 1.25)),
        (["good", "bad"], ("bad", "good")),
        (["True", "False"], (False, True)),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "parquet", "json", "jsonl"])
def test_classes_have_the_same_names_whatever_the_format_is(
    tmp_path: Path, suffix: str, values: list[Any], classes: tuple[Any, ...]
) -> None:
    frame = pd.DataFrame({"y": values * 20, "x": range(40)})
    path = tmp_path / f"table.{suffix}"
    write = {
        "csv": lambda: frame.to_csv(path, index=False),
        "parquet": lambda: frame.to_parquet(path),
        "json": lambda: frame.to_json(path, orient="records"),
        "jsonl": lambda: frame.to_json(path, orient="records", lines=True),
    }
    write[suffix]()
    found = read_target(read_table(path), "y")
    assert found.classes == classes
    assert [type(one) for one in found.classes] == [type(one) for one in classes]
    assert [classes[code] for code in found.codes] == [classes[list(values).index(value)] for value in values * 20] or all(
        str(classes[code]).lower() == str(value).lower().removesuffix(".0")
        for code, value in zip(found.codes, values * 20, strict=True)
    )


@pytest.mark.parametrize(
    ("cells", "positive", "classes"),
    [
        (["good", "bad"], "bad", ("good", "bad")),
        (["good", "bad"], "good", ("bad", "good")),
        (["1", "0"], "0", (1, 0)),
        (["1.0", "0.0"], "0", (1, 0)),
        (["True", "False"], "false", (True, False)),
        (["0.5", "1.5"], "0.50", (1.5, 0.5)),
        (["01", "1"], "01", ("1", "01")),
    ],
)
def test_the_positive_class_can_be_chosen(cells: list[str], positive: str, classes: tuple[Any, Any]) -> None:
    found, codes = target_of(cells * 10, positive)
    assert found == classes
    assert codes[:2] in ([0, 1], [1, 0])


@pytest.mark.parametrize(("cells", "said"), [(["a", "b"], "the classes are 'a' and 'b'"), (["a", "b", "c"], "has 3 classes")])
def test_a_positive_class_that_cannot_be_is_refused(cells: list[str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        target_of(cells * 10, "x")


def test_rows_without_a_class_have_the_code_minus_one() -> None:
    assert target_of(["b", "", "a", " "] * 10) == (("a", "b"), [1, -1, 0, -1] * 10)


def test_a_class_of_few_rows_is_refused_by_its_name() -> None:
    with pytest.raises(TableError, match="too few rows are 'True': 2"):
        target_of(["false"] * 30 + ["true", "TRUE"])


@pytest.mark.parametrize("method", ["logit", "trees", "two-stage"])
def test_the_chosen_class_is_the_one_that_is_scored_as_positive(tmp_path: Path, method: Any) -> None:
    table = mixed_table()
    path = write_csv(tmp_path / "table.csv", table)
    rule = ThresholdRule("top_share", top_share=0.1)
    draft, report = train(path, target="bought", method=method, positive="no", threshold=rule)
    components = save_components(tmp_path / "components", draft)
    assert components.manifest.classes == ("yes", "no")
    assert list(components.model.classes_) == ["yes", "no"]
    rows: list[dict[str, Any]] = [{name: cells[row] for name, cells in table.items()} for row in range(600)]
    probabilities = score(components, rows)[:, 1]
    is_no = np.array(table["bought"]) == "no"
    assert probabilities[is_no].mean() > probabilities[~is_no].mean() + 0.1
    assert (probabilities >= components.manifest.threshold).mean() == pytest.approx(0.1, abs=0.05)
    assert report.held_back.positive_share == pytest.approx(is_no.mean(), abs=0.01)


def test_booleans_are_served_as_booleans(tmp_path: Path) -> None:
    table = mixed_table()
    table["bought"] = ["True" if cell == "yes" else "False" for cell in table["bought"]]
    draft, _ = train(write_csv(tmp_path / "table.csv", table), target="bought", method="trees")
    assert save_components(tmp_path / "components", draft).manifest.classes == (False, True)
