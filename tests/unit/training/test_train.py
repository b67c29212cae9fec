from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from serve_app.components.compiled import Components, compile_draft
from serve_app.components.loading import load_components
from serve_app.components.manifest import Draft
from serve_app.components.saving import save_components
from serve_app.errors import SettingsError, TableError
from serve_app.exercise.stand_in_data import generate
from serve_app.training.coefficients import standard_errors
from serve_app.training.folds import split_rows
from serve_app.training.results import TrainingReport
from serve_app.training.train import train as train_by

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from serve_app.exercise.published_model import PublishedModel

Table = dict[str, list[str]]
Trained = tuple[Draft, TrainingReport]


def train(path: Path, **options: Any) -> Trained:
    """By the exercise's method unless a test says otherwise."""
    return train_by(path, **{"method": "two-stage"} | options)


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("data"), test_rows=1).train


@pytest.fixture(scope="module")
def trained(stand_in: Path) -> Trained:
    """What the README's command fits: on all 40,000 rows."""
    return train(stand_in, target="y")


def odd_table(rows: int = 400) -> Table:
    """Names, kinds and spellings that the published table does not have, and classes that are words."""
    random = np.random.default_rng(5)
    number, owed, share = random.normal(size=rows), random.normal(0, 3000, rows), random.uniform(0, 100, rows)
    place = random.choice(["in the north", "südlich", '"quoted", with a comma', "true", "7"], rows)
    log_odds = number + owed / 3000 - share / 50 + 1 + (place == "südlich") - 2.0 * (place == "true")
    money = [f"(${-value:,.2f})" if value < 0 else f"${value:,.2f}" for value in owed]
    table = {
        "a b": [f"{value:.6f}" for value in number],
        "Σ owed ($)": money,
        "x_y": [f"{value:.2f}%" for value in share],
        "": [f"{value}" for value in random.integers(-5, 5, rows)],
        "where": place.tolist(),
        "where_": random.choice(["up", "down"], rows).tolist(),
        "churned?": np.where(random.random(rows) < 1 / (1 + np.exp(-log_odds)), "yes", "no").tolist(),
    }
    for name in table.keys() - {"churned?"}:
        for row in random.choice(rows, rows // 20, replace=False):
            table[name][row] = " " if row % 2 else ""
    return table


def write(path: Path, table: Table) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))
    return path


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    return write(tmp_path / "odd table, v2.csv", odd_table())


def simple_table(rows: int = 100) -> Table:
    """One column beside the target that says something of it, so that any other column may say nothing."""
    hints = np.random.default_rng(3).normal(size=rows) + np.tile([-0.5, 0.5], rows // 2)
    return {"hint": [f"{value:.3f}" for value in hints], "y": ["0", "1"] * (rows // 2)}


def served_probabilities(components: Components, table: Table) -> NDArray[np.float64]:
    """Of each row of a table that was sent to the service as JSON."""
    names = components.manifest.selected_features
    rows = [dict(zip(names, cells, strict=True)) for cells in zip(*(table[name] for name in names), strict=True)]
    chunks = list(components.parser(max_rows=len(rows)).chunks(json.dumps(rows).encode()))
    assert not any(chunk.problems for chunk in chunks)
    values = np.concatenate([chunk.values for chunk in chunks])
    return components.score(values)[:, 1]


# What the issue says of the model that the stand-in makes.


def test_the_stand_in_gives_the_published_auc(trained: Trained) -> None:
    _, report = trained
    assert report.train.auc == pytest.approx(0.80, abs=0.01)
    assert report.held_back.auc == pytest.approx(0.80, abs=0.01)


def test_at_least_22_of_25_coefficients_are_within_three_publishedstandard_errors(
    trained: Trained, published: PublishedModel
) -> None:
    _, report = trained
    assert len(report.coefficients) == 25
    close = [
        name
        for name, coefficient in report.coefficients.items()
        if name in published.coefficients
        and abs(coefficient - published.coefficients[name]) <= 3 * published.coefficient_standard_errors[name]
    ]
    assert len(close) >= 22


def test_the_standard_errors_are_about_the_published_ones(trained: Trained, published: PublishedModel) -> None:
    _, report = trained
    for name in report.standard_errors.keys() & published.coefficient_standard_errors.keys():
        assert report.standard_errors[name] == pytest.approx(published.coefficient_standard_errors[name], rel=0.15), name


def test_the_columns_are_recognised_for_what_they_are(trained: Trained, published: PublishedModel) -> None:
    draft, report = trained
    columns = [msgspec.structs.replace(column, null_tokens=()) for column in draft.manifest.schema.columns]
    assert columns == list(published.schema().columns)
    assert report.left_out == {}


def test_four_rows_in_five_are_fitted_on(trained: Trained) -> None:
    _, report = trained
    assert (report.train.rows, report.held_back.rows, report.rows) == (32_000, 8_000, 40_000)
    assert report.train.positive_share is not None
    assert 0.49 <= report.train.positive_share <= 0.515
    assert report.held_back.positive_share == pytest.approx(report.train.positive_share, abs=1e-4)


def test_the_scaler_learns_the_published_moments_of_imputed_numbers(trained: Trained, published: PublishedModel) -> None:
    draft, _ = trained
    for name, mean, scale in zip(draft.scaler.feature_names_in_, draft.scaler.mean_, draft.scaler.scale_, strict=True):
        moments = published.numeric[name]
        assert mean == pytest.approx(moments.mean, abs=0.03 * moments.std), name
        assert scale == pytest.approx(moments.std * np.sqrt(0.97), rel=0.02), name


def test_saved_components_of_the_stand_in_load_with_nulls_among_their_golden_rows(trained: Trained, tmp_path: Path) -> None:
    draft, report = trained
    save_components(tmp_path / "components", draft)
    manifest = load_components(tmp_path / "components").manifest
    assert (manifest.name, manifest.version, manifest.target, manifest.classes) == ("train", "1.0.0", "y", (0, 1))
    assert [feature.name for feature in manifest.features] == list(report.coefficients)
    assert manifest.training == report.as_json()
    assert len(manifest.golden) == 20
    assert sum(None in golden.row.values() for golden in manifest.golden) >= 10
    assert sum(None not in golden.row.values() for golden in manifest.golden) >= 3


# Any other table.


def test_a_table_with_odd_names_and_classes_makes_components_that_load(odd: Path, tmp_path: Path) -> None:
    draft, report = train(odd, target="churned?")
    manifest = save_components(tmp_path / "components", draft).manifest
    assert manifest.name == "odd-table-v2"
    assert manifest.classes == ("no", "yes")
    kinds = {column.name: column.kind for column in manifest.schema.columns}
    assert kinds == {
        "a b": "numeric",
        "Σ owed ($)": "money",
        "x_y": "percent",
        "": "numeric",
        "where": "categorical",
        "where_": "categorical",
    }
    assert manifest.schema.column("where").levels == ('"quoted", with a comma', "7", "in the north", "südlich", "true")
    assert {"a b", "Σ owed ($)", "x_y", "where_südlich", "where_true"} <= set(report.coefficients)
    assert report.coefficients["where_true"] < 0 < report.coefficients["Σ owed ($)"]


def test_the_service_scores_the_table_as_the_report_says(odd: Path, tmp_path: Path) -> None:
    draft, report = train(odd, target="churned?")
    components = save_components(tmp_path / "components", draft)
    table = odd_table()
    probabilities = served_probabilities(components, table)
    is_yes = np.array(table["churned?"]) == "yes"
    log_loss = -np.log(np.where(is_yes, probabilities, 1 - probabilities)).mean()
    reported = (report.train.log_loss * report.train.rows + report.held_back.log_loss * report.held_back.rows) / 400
    assert log_loss == pytest.approx(reported, abs=1e-12)


def test_no_other_coefficients_are_more_likely(odd: Path) -> None:
    draft, report = train(odd, target="churned?")
    table = odd_table()
    components = compile_draft(draft)
    is_yes = np.array(table["churned?"]) == "yes"
    fitted, _ = split_rows(is_yes.astype(np.intp), 26)
    names = components.manifest.selected_features
    rows = [{name: table[name][row] for name in names} for row in fitted]
    (chunk,) = components.parser(max_rows=len(rows)).chunks(json.dumps(rows).encode())
    matrix = components.encoder.encode(chunk.values)
    residuals = is_yes[fitted] - components.scorer.score(matrix)[:, 1]
    steps_to_the_top = np.abs(matrix.T @ residuals) * np.square(list(report.standard_errors.values()))
    assert (steps_to_the_top < 1e-5 * np.array(list(report.standard_errors.values()))).all()


def test_the_same_seed_fits_the_same_model_and_another_one_splits_otherwise(odd: Path) -> None:
    (draft, report), (same_draft, same), (_, other) = (train(odd, target="churned?", seed=seed) for seed in (1, 1, 2))
    assert report == same
    assert draft.manifest == same_draft.manifest
    assert draft.golden_rows == same_draft.golden_rows
    assert report.train.auc != other.train.auc


def test_no_more_features_are_selected_than_asked_for(odd: Path) -> None:
    _, all_of_them = train(odd, target="churned?")
    draft, two = train(odd, target="churned?", selected=2)
    assert list(two.coefficients) == list(all_of_them.coefficients)[:2]
    assert len(draft.manifest.features) == 2


def test_what_the_user_chooses_stands_in_the_manifest(odd: Path) -> None:
    draft, _ = train(odd, target="churned?", name="churn", version="2.1", threshold=0.3, unknown="reject")
    manifest = draft.manifest
    assert (manifest.name, manifest.version, manifest.threshold) == ("churn", "2.1", 0.3)
    assert {column.unknown for column in manifest.schema.categorical} == {"reject"}


@pytest.mark.parametrize("choice", [{"name": "no spaces"}, {"version": ""}, {"threshold": 1.5}, {"selected": 0}])
def test_a_choice_that_cannot_be_is_a_settings_error(odd: Path, choice: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        train(odd, target="churned?", **choice)


@pytest.mark.parametrize(
    ("file_name", "name"),
    [("2024.csv", "2024"), ("été 3.csv", "t-3"), ("_.csv", "model"), (f"{'x' * 99}.csv", "x" * 64)],
)
def test_a_model_without_a_name_gets_that_of_the_file(tmp_path: Path, file_name: str, name: str) -> None:
    draft, _ = train(write(tmp_path / file_name, odd_table()), target="churned?")
    assert draft.manifest.name == name


@pytest.mark.parametrize(
    ("classes", "positive", "expected"),
    [
        (("10", "9"), "10", (9, 10)),
        (("-1", "+1"), "+1", (-1, 1)),
        (("1.0", "0.0"), "1.0", (0, 1)),
        (("1.5", "0.50"), "1.5", (0.5, 1.5)),
        (("TRUE", "False"), "TRUE", (False, True)),
        (("yes", "No"), "yes", ("No", "yes")),
        (("01", "1"), "1", ("01", "1")),
        ((" b ", "a"), " b ", ("a", "b")),
        (("9" * 30, "1"), "9" * 30, ("1", "9" * 30)),
    ],
)
def test_the_last_class_is_positive(tmp_path: Path, classes: tuple[str, str], positive: str, expected: tuple[Any, Any]) -> None:
    table = simple_table()
    table["y"] = [classes[0], classes[1]] * 50
    noise = np.random.default_rng(0).normal(size=100)
    is_positive = np.array([cell == positive for cell in table["y"]])
    table["sign"] = [f"{cell}" for cell in is_positive + noise]
    draft, report = train(write(tmp_path / "table.csv", table), target="y")
    assert draft.manifest.classes == expected
    assert report.coefficients["sign"] > 0
    save_components(tmp_path / "components", draft)


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "2.5", "-3e2", " 4 ", "+.5"], "numeric"),
        (["$1", "2"], "money"),
        (["1,234", "-5"], "money"),
        (["($5,032.58)", "$-1.00", "-$2.00"], "money"),
        (["1%", "2.5%", "3"], "percent"),
        (["1%", "$2"], "categorical"),
        (["a", "b", "1"], "categorical"),
        (["infinity", "inf"], "categorical"),
        (["1_000", "2_000"], "categorical"),
        (["2024-01-01", "2024-01-02"], "date"),
    ],
)
def test_a_column_is_what_all_of_its_cells_are(tmp_path: Path, cells: list[str], kind: str) -> None:
    table = simple_table() | {"x": [["", *cells][row // 2 % (len(cells) + 1)] for row in range(100)]}
    draft, _ = train(write(tmp_path / "table.csv", table), target="y")
    assert draft.manifest.schema.column("x").kind == kind


@pytest.mark.parametrize(
    "cells",
    [["7"] * 100, [""] * 100, [" "] * 99 + ["1"], [f"id {row}" for row in range(200)]],
    ids=["constant", "empty", "one value", "identifiers"],
)
def test_a_column_of_no_use_is_left_out(tmp_path: Path, cells: list[str]) -> None:
    table = simple_table(len(cells)) | {"x": cells}
    draft, report = train(write(tmp_path / "table.csv", table), target="y")
    assert list(report.left_out) == ["x"]
    assert [column.name for column in draft.manifest.schema.columns] == ["hint"]


def test_a_level_that_only_rows_held_back_have_is_no_level(tmp_path: Path) -> None:
    table = simple_table() | {"x": ["a", "b"] * 50}
    _, held_back = split_rows((np.array(table["y"]) == "1").astype(np.intp), 26)
    table["x"] = ["a" if (row // 2) % 3 else "b" for row in range(100)]
    table["x"][held_back[0]] = "c"
    draft, _ = train(write(tmp_path / "table.csv", table), target="y", unknown="reject")
    assert draft.manifest.schema.column("x").levels == ("a", "b")
    save_components(tmp_path / "components", draft)


def test_classes_that_can_be_told_apart_are_fitted_without_a_warning(tmp_path: Path) -> None:
    table = simple_table() | {"x": [f"{row % 2 - 0.5}" for row in range(100)]}
    draft, report = train(write(tmp_path / "table.csv", table), target="y")
    assert report.held_back.auc == 1.0
    save_components(tmp_path / "components", draft)


def test_coefficients_that_the_rows_do_not_determine_have_infinite_errors() -> None:
    column = np.random.default_rng(0).normal(size=(50, 1))
    errors = standard_errors(np.hstack([column, 2 * column]), np.full(50, 0.5))
    assert np.isinf(errors).all()


def test_an_infinite_error_is_null_in_the_manifest(odd: Path) -> None:
    _, report = train(odd, target="churned?")
    endless = TrainingReport(**{**vars(report), "standard_errors": dict.fromkeys(report.coefficients, np.inf)})
    assert set(endless.as_json()["standard_errors"].values()) == {None}
    assert json.loads(json.dumps(report.as_json())) == report.as_json()


# Tables that cannot be trained on.


def without(table: Table, *names: str) -> Table:
    return {name: cells for name, cells in table.items() if name not in names}


def with_cell(table: Table, row: int, name: str, cell: str) -> Table:
    return table | {name: [*table[name][:row], cell, *table[name][row + 1 :]]}


def test_a_cell_that_is_no_number_is_named_with_row_and_column(tmp_path: Path) -> None:
    table = with_cell(simple_table(), 40, "hint", "1.2.3")
    with pytest.raises(TableError, match=r"row 42, column 'hint': '1\.2\.3' is not a number"):
        train(write(tmp_path / "table.csv", table), target="y")


def test_so_is_one_among_the_rows_held_back(tmp_path: Path) -> None:
    table = simple_table()
    _, held_back = split_rows((np.array(table["y"]) == "1").astype(np.intp), 26)
    for row in held_back[:9]:
        table = with_cell(table, row, "hint", "much")
    with pytest.raises(TableError, match=rf"row {held_back[0] + 2}, column 'hint': 'much' is not a number"):
        train(write(tmp_path / "table.csv", table), target="y")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: without(table, "y"), "there is no column 'y'"),
        (lambda table: table | {"y": ["1"] * 100}, "has 1 different values"),
        (lambda table: table | {"y": ["1"] * 97 + ["0"] * 3}, "too few rows are '0': 3"),
        (lambda table: {name: cells[:12] for name, cells in table.items()}, "too few rows to train on: 12"),
        (lambda table: {name: [] for name in table}, "too few rows to train on: 0"),
        (lambda table: {"y": table["y"]}, "no column besides the target can be used"),
        (lambda table: {"y": table["y"], "x": ["1", "1.0", "1", "01"] * 25}, "no column tells the classes apart"),
        (lambda table: with_cell(table, 0, "hint", "1e150"), "row 2, column 'hint': '1e150' is too large"),
    ],
)
def test_a_table_that_cannot_be_trained_on_is_refused(tmp_path: Path, change: Callable[[Table], Table], message: str) -> None:
    with pytest.raises(TableError, match=message):
        train(write(tmp_path / "table.csv", change(simple_table())), target="y")


def test_two_columns_that_make_features_of_one_name_are_refused(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    table = {
        "hint": [f"{value:.3f}" for value in random.normal(size=400)],
        "a_b": random.choice(["b", "c"], 400).tolist(),
        "a": random.choice(["b", "b_c"], 400).tolist(),
    }
    chances = [0.1 + 0.4 * ((one == "c") + (two == "b_c")) for one, two in zip(table["a_b"], table["a"], strict=True)]
    table["y"] = (random.random(400) < chances).astype(int).astype(str).tolist()
    with pytest.raises(TableError, match=r"columns '(a_b' and 'a|a' and 'a_b)' both make a feature 'a_b_c'"):
        train(write(tmp_path / "table.csv", table), target="y")
