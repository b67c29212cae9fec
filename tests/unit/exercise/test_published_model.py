from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

from serve_app.components.compiled import Components, compile_draft
from serve_app.components.manifest import Draft
from serve_app.exercise.published_model import PublishedModel, draft_reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serve_app.errors import FieldProblem

PROBABILITY = 0.36208864382410294
PROBABILITY_WITHOUT_CATEGORIES = 0.34968814557106


@pytest.fixture(scope="module")
def draft(published: PublishedModel) -> Draft:
    return draft_reference(published)


@pytest.fixture(scope="module")
def compiled(draft: Draft) -> Components:
    return compile_draft(draft)


def probability_of(components: Components, row: dict[str, Any]) -> tuple[float, Sequence[FieldProblem]]:
    (chunk,) = components.parser(max_rows=1).chunks(msgspec.json.encode(row))
    assert not chunk.problems
    return float(components.score(chunk.values)[0, 1]), chunk.warnings


def test_the_example_row_has_the_probability_of_the_published_coefficients(
    compiled: Components, published: PublishedModel, example: dict[str, Any]
) -> None:
    probability, warnings = probability_of(compiled, example)
    assert probability == pytest.approx(PROBABILITY, abs=1e-15)
    assert probability == pytest.approx(published.example.probability_by_the_published_coefficients, abs=1e-15)
    assert not warnings


@pytest.mark.parametrize("nothing", [None, ""])
def test_without_its_categories_the_example_row_gets_the_answer_that_was_printed(
    compiled: Components, published: PublishedModel, example: dict[str, Any], nothing: str | None
) -> None:
    probability, _ = probability_of(compiled, example | dict.fromkeys(published.categorical, nothing))
    assert probability == pytest.approx(PROBABILITY_WITHOUT_CATEGORIES, abs=1e-14)
    printed = published.example.published_response[0]["probability_positiveclass"]
    assert probability == pytest.approx(printed, abs=2e-5)  # the coefficients were published to four digits


def test_the_published_formula_gives_the_same_by_hand(
    published: PublishedModel, example: dict[str, Any], compiled: Components
) -> None:
    numbers = example | {"x12": 5547.78, "x63": 36.29}
    log_odds = 0.0
    for feature in published.features():
        if feature.level is not None:
            log_odds += published.coefficients[feature.name] * (example[feature.column] == feature.level)
        else:
            moments = published.numeric[feature.column]
            log_odds += published.coefficients[feature.name] * (numbers[feature.column] - moments.mean) / moments.std
    probability, _ = probability_of(compiled, example)
    assert probability == pytest.approx(1 / (1 + np.exp(-log_odds)), abs=1e-15)


def test_the_features_are_the_published_ones_in_their_order(draft: Draft, published: PublishedModel) -> None:
    assert [feature.name for feature in draft.manifest.features] == list(published.coefficients)
    assert len(draft.manifest.features) == 25
    assert set(draft.manifest.selected_features) == {feature.column for feature in draft.manifest.features}


def test_the_schema_has_every_published_column_in_order(published: PublishedModel) -> None:
    schema = published.schema()
    assert [column.name for column in schema.columns] == published.columns
    assert {column.name for column in schema.columns if column.kind == "money"} == set(published.money_columns)
    assert {column.name for column in schema.columns if column.kind == "percent"} == set(published.percent_columns)
    assert {column.name: list(column.levels) for column in schema.categorical} == published.categorical


def test_each_baseline_is_the_first_level_in_the_alphabet(published: PublishedModel) -> None:
    assert all(column.levels[0] == min(column.levels) for column in published.schema().categorical)


def test_what_an_unknown_category_does_can_be_chosen(published: PublishedModel) -> None:
    schema = draft_reference(published, "reject").manifest.schema
    assert {column.unknown for column in schema.categorical} == {"reject"}


@pytest.mark.parametrize("part", ["imputer", "scaler", "model"])
def test_each_estimator_is_a_whole_scikit_learn_object(draft: Draft, part: str) -> None:
    estimator = getattr(draft, part)
    assert clone(estimator).get_params() == estimator.get_params()
    restored = pickle.loads(pickle.dumps(estimator))  # noqa: S301 - made on the line itself
    assert restored.n_features_in_ == estimator.n_features_in_ == len(estimator.feature_names_in_)
    assert repr(restored) == repr(estimator)


def test_the_imputer_and_the_scaler_transform_tables_by_the_published_moments(draft: Draft, published: PublishedModel) -> None:
    moments = published.numeric
    means = {name: moments[name].mean for name in draft.imputer.feature_names_in_}
    table = pd.DataFrame(
        [means, dict.fromkeys(means), {name: mean + moments[name].std for name, mean in means.items()}],
        dtype=float,
    )
    filled = pd.DataFrame(draft.imputer.transform(table), columns=table.columns)
    scaled = draft.scaler.transform(filled)
    assert np.abs(scaled[:2]).max() == 0
    assert scaled[2] == pytest.approx(1.0)
    assert draft.scaler.inverse_transform(scaled) == pytest.approx(filled.to_numpy())


def test_the_model_predicts_as_it_is_compiled(draft: Draft, compiled: Components) -> None:
    matrix = np.random.default_rng(0).normal(size=(50, 25))
    table = pd.DataFrame(matrix, columns=draft.model.feature_names_in_)
    probabilities = draft.model.predict_proba(table)
    assert compiled.scorer.score(matrix) == pytest.approx(probabilities, abs=1e-15)
    assert draft.model.predict(table).tolist() == (probabilities[:, 1] > 0.5).astype(int).tolist()
    assert draft.model.decision_function(table) == pytest.approx(matrix @ draft.model.coef_[0])


def test_golden_rows_hold_the_example_nulls_and_brackets(draft: Draft, example: dict[str, Any]) -> None:
    assert draft.golden_rows[0] == example
    cells = [cell for row in draft.golden_rows for cell in row.values()]
    assert None in cells
    assert any(isinstance(cell, str) and cell.startswith("($") for cell in cells)
