"""What clients must change when another model is deployed."""

from __future__ import annotations

import msgspec
import pytest

from serve_app.components.compiled import Components
from serve_app.scoring.schema import Column
from serve_app.serving.client_schema import ClientSchema, client_schema, schema_changes

NUMBER = Column("n", "numeric")
DAY = Column("day", "categorical", levels=("monday", "tuesday"))
BEFORE = ClientSchema((NUMBER, DAY), ("0", "1"))


@pytest.mark.parametrize(
    ("columns", "changes"),
    [
        ((DAY, NUMBER), []),  # the order of columns is the client's own
        ((NUMBER,), []),  # columns that the model does not use are ignored
        ((NUMBER, DAY, Column("more", "money")), ["more: new; clients must send it (money)"]),
        ((Column("n", "percent"), DAY), ["n: numeric becomes percent"]),
        ((NUMBER, Column("day", "date")), ["day: categorical becomes date"]),
        (
            (NUMBER, Column("day", "categorical", levels=("tuesday", "sunday"))),
            ["day: new levels: 'sunday'; levels no longer known: 'monday'"],
        ),
        ((NUMBER, Column("day", "categorical", levels=("tuesday", "monday"))), []),
        ((Column("n", "numeric", null="reject"), DAY), ["n: nulls are refused"]),
        (
            (NUMBER, Column("day", "categorical", levels=DAY.levels, unknown="reject")),
            ["day: unknown levels are refused"],
        ),
    ],
)
def test_each_column_that_clients_must_change_is_named(columns: tuple[Column, ...], changes: list[str]) -> None:
    assert schema_changes(BEFORE, ClientSchema(columns, BEFORE.classes)) == changes


def test_other_classes_are_a_change() -> None:
    assert schema_changes(BEFORE, ClientSchema(BEFORE.columns, ("no", "yes"))) == ["classes: 0, 1 becomes no, yes"]


def test_of_many_levels_some_are_named() -> None:
    many = Column("day", "categorical", levels=(*DAY.levels, *map(str, range(9))))
    (line,) = schema_changes(BEFORE, ClientSchema((NUMBER, many), BEFORE.classes))
    assert line == "day: new levels: '0', '1', '2', '3', '4' and 4 more"


def test_policies_that_become_milder_are_no_change() -> None:
    strict = Column("n", "numeric", null="reject"), Column("day", "categorical", levels=DAY.levels, unknown="reject")
    assert schema_changes(ClientSchema(strict, BEFORE.classes), BEFORE) == []


def test_clients_send_the_columns_that_the_model_uses(components: Components) -> None:
    schema = client_schema(components.manifest)
    assert [column.name for column in schema.columns] == list(components.manifest.selected_features)
    assert schema.classes == ("0", "1")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(schema), type=ClientSchema) == schema
