from __future__ import annotations

import pytest

from serve_app.scoring.schema import Column, Feature, Schema, selected_columns

SCHEMA = Schema((Column("a", "numeric"), Column("c", "categorical", levels=("x", "y", "z")), Column("m", "money")))


def test_features_are_numbers_first_then_each_level_but_the_baseline() -> None:
    assert [feature.name for feature in SCHEMA.all_features()] == ["a", "m", "c_y", "c_z"]


def test_selected_columns_stand_once_in_the_order_of_their_features() -> None:
    features = [Feature("c", "z"), Feature("a"), Feature("c", "y")]
    assert [column.name for column in selected_columns(SCHEMA, features)] == ["c", "a"]


def test_a_feature_of_an_unknown_column_is_refused() -> None:
    with pytest.raises(KeyError):
        selected_columns(SCHEMA, [Feature("nope")])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Column("c", "categorical"),
        lambda: Column("a", "numeric", levels=("x",)),
        lambda: Column("c", "categorical", levels=("x", "x")),
        lambda: Schema((Column("a", "numeric"), Column("a", "money"))),
    ],
)
def test_a_schema_that_contradicts_itself_is_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=r"needs levels|occurs twice"):
        make()
