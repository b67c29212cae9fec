"""Commands about files of rows: generate, expect, score, drift."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import click
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from serve_app.cli.options import PATH, components_option, seed_option
from serve_app.cli.printing import console
from serve_app.errors import TableError

if TYPE_CHECKING:
    from serve_app.components.compiled import Components
    from serve_app.offline.pieces import Format

__all__ = ["COMMANDS"]


@click.command()
@click.option("--out", type=PATH, default=Path("data"), show_default=True, help="Folder to write to.")
@click.option("--train-rows", type=click.IntRange(min=1), default=40_000, show_default=True)
@click.option("--test-rows", type=click.IntRange(min=1), default=10_000, show_default=True)
@seed_option
@components_option
def generate(out: Path, train_rows: int, test_rows: int, seed: int, components: Path) -> None:
    """Write a stand-in for the exercise's data: train.csv, test.json, and the expected answers to test.json."""
    from serve_app.components.loading import load_components
    from serve_app.exercise.stand_in_data import generate as write_stand_in

    loaded = load_components(components)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("rows", total=train_rows + test_rows)
        stand_in = write_stand_in(
            out,
            seed=seed,
            train_rows=train_rows,
            test_rows=test_rows,
            advance=lambda rows: progress.advance(task, rows),
        )
    console.print(f"{out / 'train.csv'} and {out / 'test.json'}: {stand_in.positive_share:.2%} positive")
    _write_expectations(stand_in.test, out / "expected.json", loaded)


@click.command()
@click.argument("rows", type=PATH, default=Path("data", "test.json"))
@click.option("--out", type=PATH, help="File to write (default: expected.json in the folder of the rows).")
@components_option
def expect(rows: Path, out: Path | None, components: Path) -> None:
    """Write the expected answers to a JSON file of rows (data/test.json), for load tests to compare with."""
    from serve_app.components.loading import load_components

    _write_expectations(rows, out or rows.with_name("expected.json"), load_components(components))


@click.command()
@click.argument("source", metavar="INPUT")
@click.option("--output", required=True, help="Folder to write the answers to; an interrupted run is continued.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["parquet", "csv", "jsonl"]),
    default="parquet",
    show_default=True,
    help="Format of the answers.",
)
@click.option("--keep", multiple=True, metavar="COLUMN", help="Column of the input to repeat in the answers; can be repeated.")
@click.option("--address", envvar="RAY_ADDRESS", help="Address of a Ray cluster (default: this machine only).")
@components_option
def score(  # noqa: PLR0913, PLR0917 - click passes options as arguments
    source: str, output: str, form: Format, keep: tuple[str, ...], address: str | None, components: Path
) -> None:
    """Score a file, or all files of a folder (CSV, Parquet, JSON lines), with exactly the answers of the service."""
    from serve_app.offline.local_ray import ray_for_files
    from serve_app.offline.score_files import PieceResult, score_files

    columns = (
        TextColumn("{task.fields[rows]} rows"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("pieces"),
        TimeElapsedColumn(),
    )
    with _needs_data_packages(), ray_for_files(address), Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=None, rows="0")
        rows = 0
        start = perf_counter()

        def advance(result: PieceResult, pieces: int) -> None:
            nonlocal rows
            rows += result.rows
            progress.update(task, advance=1, total=pieces, rows=f"{rows:,}")

        totals = score_files(source, output, components, form=form, keep=keep, advance=advance)
        seconds = perf_counter() - start
    resumed = f"; {totals.resumed} of {totals.pieces} pieces had been done before" if totals.resumed else ""
    console.print(f"{output}: {totals.rows:,} rows in = {totals.scored:,} scored + {totals.refused:,} refused{resumed}")
    if not totals.resumed:
        console.print(f"{seconds:.1f} s, {totals.rows / seconds:,.0f} rows/s")
    if totals.refused:
        console.print(f"{output}/_refused holds the reasons")


@click.command()
@click.argument("source", metavar="FILE")
@click.option("--out", type=PATH, default=Path("drift.html"), show_default=True, help="Page to write.")
@components_option
def drift(source: str, out: Path, components: Path) -> None:
    """Compare the rows of a file (CSV, Parquet, JSON lines) with the rows that the model was trained on."""
    from serve_app.components.loading import load_components
    from serve_app.offline.count_files import count_files
    from serve_app.scoring.drift import compare
    from serve_app.training.drift_report import write_drift_report

    loaded = load_components(components)
    with _needs_data_packages(), console.status("Counting ..."):
        counts, refused = count_files(source, loaded)
    if not counts.rows or not loaded.manifest.distribution:
        raise TableError(f"{source}: none of {refused:,} rows can be scored")
    found = compare(loaded.manifest.distribution, counts)
    table = Table("column", "PSI", "", "missing", "in training")
    if found.score is not None:
        table.add_row("(score)", f"{found.score.psi:.4f}", found.score.verdict, "", "")
    for name, one in sorted(found.columns.items(), key=lambda item: -item[1].psi):
        table.add_row(escape(name), f"{one.psi:.4f}", one.verdict, f"{one.missing:.2%}", f"{one.missing_in_training:.2%}")
    console.print(table)
    console.print(f"{counts.rows:,} rows{f', and {refused:,} more that were refused' if refused else ''}")
    console.print(write_drift_report(out, loaded.manifest, found))


@contextlib.contextmanager
def _needs_data_packages() -> Iterator[None]:
    """Turns a missing package into the command that installs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in {"pyarrow", "fsspec"}:
            raise
        raise click.ClickException("reading files needs more packages: run make install-data") from error


def _write_expectations(rows: Path, out: Path, components: Components) -> None:
    from serve_app.offline.expected_answers import write_expectations

    written = write_expectations(rows, out, components)
    model = written.model
    console.print(f"{out}: the answers of {model.name} {model.version} to {rows}, {len(written.answers):,} rows")


COMMANDS = (generate, expect, score, drift)
