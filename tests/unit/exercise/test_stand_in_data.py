from __future__ import annotations

import csv
import json
import runpy
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from serve_app.config import PROJECT_ROOT
from serve_app.exercise.stand_in_data import StandIn, generate
from serve_app.scoring.cells import read_money, read_number
from serve_app.scoring.schema import READERS, Column

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from serve_app.components.compiled import Components
    from serve_app.exercise.published_model import PublishedModel

Table = dict[str, list[str]]
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def advances() -> list[int]:
    return []


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory, advances: list[int]) -> StandIn:
    """The stand-in as the README's command makes it."""
    return generate(tmp_path_factory.mktemp("data") / "new", advance=advances.append)


@pytest.fixture(scope="module")
def table(stand_in: StandIn) -> Table:
    with stand_in.train.open(newline="") as file:
        header, *rows = csv.reader(file, strict=True)
    return dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))


@pytest.fixture(scope="module")
def rows(stand_in: StandIn) -> Rows:
    parsed: Rows = json.loads(stand_in.test.read_bytes())
    return parsed


def read(column: Column, cells: list[Any]) -> NDArray[np.float64]:
    """The numbers of a column, without its nulls."""
    present = [cell for cell in cells if cell not in {None, ""}]
    return np.array([READERS[column.kind](cell) if isinstance(cell, str) else cell for cell in present])


def numeric_columns(published: PublishedModel) -> list[Column]:
    columns = [column for column in published.schema().columns if not column.is_categorical]
    assert len(columns) == 96
    return columns


def test_the_table_has_40000_rows_with_the_target_last(table: Table, published: PublishedModel) -> None:
    assert list(table) == [*published.columns, "y"]
    assert {len(cells) for cells in table.values()} == {40_000}
    assert set(table["y"]) == {"0", "1"}


def test_the_requests_are_10000_rows_of_exactly_the_published_columns(rows: Rows, published: PublishedModel) -> None:
    assert len(rows) == 10_000
    assert all(list(row) == published.columns for row in rows)
    assert len(published.columns) == 100


def test_about_half_of_the_rows_are_positive(stand_in: StandIn, table: Table) -> None:
    assert stand_in.positive_share == table["y"].count("1") / 40_000
    assert 0.49 <= stand_in.positive_share <= 0.515


@pytest.mark.usefixtures("stand_in")
def test_every_row_is_told_to_whoever_watches(advances: list[int]) -> None:
    assert sum(advances) == 50_000
    assert max(advances) <= 1000


def test_each_number_column_of_the_table_has_the_published_moments(table: Table, published: PublishedModel) -> None:
    for column in numeric_columns(published):
        numbers, moments = read(column, table[column.name]), published.numeric[column.name]
        assert numbers.mean() == pytest.approx(moments.mean, abs=1e-5 * moments.std), column.name
        assert numbers.std() == pytest.approx(moments.std, rel=1e-5), column.name


def test_each_number_column_of_the_requests_has_them_too(rows: Rows, published: PublishedModel) -> None:
    for column in numeric_columns(published):
        numbers, moments = read(column, [row[column.name] for row in rows]), published.numeric[column.name]
        assert numbers.mean() == pytest.approx(moments.mean, abs=1e-5 * moments.std), column.name
        assert numbers.std() == pytest.approx(moments.std, rel=1e-5), column.name


def test_three_percent_of_each_column_are_null_and_no_target_is(table: Table, rows: Rows) -> None:
    assert "" not in table["y"]
    for name in table.keys() - {"y"}:
        assert table[name].count("") / 40_000 == pytest.approx(0.03, abs=0.005), name
        assert sum(row[name] is None for row in rows) / 10_000 == pytest.approx(0.03, abs=0.01), name


def test_levels_have_equal_shares_but_for_japan(table: Table, published: PublishedModel) -> None:
    for name, levels in published.categorical.items():
        counts = Counter(filter(None, table[name]))
        assert set(counts) == set(levels)
        share_of_others = 0.93 / 3 if name == "x31" else 1 / len(levels)
        for level in levels:
            expected = 0.07 if level == "japan" else share_of_others
            assert counts[level] / counts.total() == pytest.approx(expected, abs=0.01), level


def test_money_is_text_with_both_spellings_of_a_negative(table: Table, rows: Rows, published: PublishedModel) -> None:
    for name in published.money_columns:
        for cells in (table[name], [row[name] for row in rows]):
            present = [cell for cell in cells if cell]
            brackets = [cell for cell in present if cell.startswith("($")]
            inner_sign = [cell for cell in present if cell.startswith("$-")]
            assert min(len(brackets), len(inner_sign)) > len(present) / 5
            assert all(read_money(cell) < 0 for cell in brackets + inner_sign)
            assert len(brackets) + len(inner_sign) == sum(read_money(cell) < 0 for cell in present)
            assert any("," in cell for cell in present)


def test_percent_is_text(table: Table, rows: Rows, published: PublishedModel) -> None:
    for name in published.percent_columns:
        present = [cell for cell in [*table[name], *(row[name] for row in rows)] if cell]
        assert all(cell.endswith("%") for cell in present)


def test_one_number_in_a_hundred_is_text(rows: Rows, published: PublishedModel) -> None:
    plain = [column.name for column in numeric_columns(published) if column.kind == "numeric"]
    cells = [row[name] for row in rows for name in plain if row[name] is not None]
    texts = [cell for cell in cells if isinstance(cell, str)]
    assert len(texts) / len(cells) == pytest.approx(0.01, abs=0.001)
    assert all(np.isfinite(read_number(text)) for text in texts)
    assert {type(cell) for cell in cells} == {float, str}


def test_the_table_has_such_texts_in_quotes(stand_in: StandIn) -> None:
    with stand_in.train.open() as file:
        lines = [next(file) for _ in range(100)]
    quoted = [cell for line in lines for cell in line.split(",") if cell.strip('"') != cell]
    assert any(cell.strip('"').replace(".", "").isdigit() for cell in quoted)


def test_the_service_takes_every_row_as_it_is(stand_in: StandIn, components: Components) -> None:
    chunks = list(components.parser(max_rows=10_000).chunks(stand_in.test.read_bytes()))
    assert sum(len(chunk.values) for chunk in chunks) == 10_000
    assert not any(chunk.problems or chunk.warnings for chunk in chunks)


def test_the_requests_weigh_about_as_much_as_the_original_ones(stand_in: StandIn) -> None:
    assert stand_in.test.stat().st_size == pytest.approx(17e6, rel=0.05)


def test_the_same_seed_makes_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    first, again, other = (
        generate(tmp_path / name, seed=seed, train_rows=300, test_rows=200)
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    assert first.train.read_bytes() == again.train.read_bytes()
    assert first.test.read_bytes() == again.test.read_bytes()
    assert first.positive_share == again.positive_share
    assert first.train.read_bytes() != other.train.read_bytes()
    assert first.test.read_bytes() != other.test.read_bytes()


def test_the_requests_do_not_depend_on_the_size_of_the_table(tmp_path: Path) -> None:
    small = generate(tmp_path / "small", train_rows=10, test_rows=20)
    large = generate(tmp_path / "large", train_rows=30, test_rows=20)
    assert small.test.read_bytes() == large.test.read_bytes()


@pytest.mark.parametrize("count", [1, 2, 1001])
def test_any_number_of_rows_can_be_asked_for(tmp_path: Path, count: int) -> None:
    stand_in = generate(tmp_path, train_rows=count, test_rows=count)
    assert len(stand_in.train.read_text().splitlines()) == count + 1
    assert len(json.loads(stand_in.test.read_bytes())) == count


@pytest.mark.parametrize("written_rows", [0, 30])
def test_a_crash_leaves_whole_files_and_no_others(tmp_path: Path, written_rows: int) -> None:
    before = generate(tmp_path, seed=1, train_rows=30, test_rows=20)
    train, test = before.train.read_bytes(), before.test.read_bytes()

    told: list[int] = []

    def advance(rows: int) -> None:
        told.append(rows)
        if sum(told) > written_rows:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path, seed=2, train_rows=30, test_rows=20, advance=advance)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test.json", "train.csv"]
    assert before.test.read_bytes() == test
    assert (before.train.read_bytes() == train) == (written_rows == 0)


@pytest.fixture(scope="module")
def draw_probability_bins() -> Callable[..., Any]:
    script: dict[str, Any] = runpy.run_path(str(PROJECT_ROOT / "scripts" / "make_charts.py"))
    function: Callable[..., Any] = script["draw_probability_bins"]
    return function


def test_the_probability_bins_resemble_the_published_ones(
    stand_in: StandIn, published: PublishedModel, draw_probability_bins: Callable[..., Any], tmp_path: Path
) -> None:
    bins = draw_probability_bins(stand_in.train, chart=tmp_path / "bins.svg")
    expected = published.published_probability_bins
    assert bins.edges == pytest.approx(np.array(expected.edges), abs=0.02)
    assert bins.positive_shares == pytest.approx(np.array(expected.positives) / expected.rows_per_bin, abs=0.06)


def test_the_chart_is_the_same_file_each_time(draw_probability_bins: Callable[..., Any], tmp_path: Path) -> None:
    table = generate(tmp_path, train_rows=200, test_rows=1).train
    charts = [tmp_path / "one.svg", tmp_path / "two.svg"]
    for chart in charts:
        draw_probability_bins(table, chart=chart)
    one, two = (chart.read_bytes() for chart in charts)
    assert one == two
    assert b"<svg" in one
    assert b"dc:date" not in one
