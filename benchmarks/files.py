"""Rows of a file scored per second: ``python -m serve_app score`` and a plain script of pandas and a Pipeline.

    python -m benchmarks.files [ROWS]

Both read the same CSV file, made of the stand-in's training rows, use the same columns and write Parquet. Both times are
those of the whole process, including the start of Python and Ray and the loading of the model. The script's model is fitted
by scikit-learn's own objects on the same rows. Only the time is compared.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import joblib
import pandas as pd
import pyarrow.dataset as ds
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from benchmarks.plain_script import read_table
from serve_app.components.manifest import Manifest
from serve_app.components.saving import save_components
from serve_app.config import PROJECT_ROOT
from serve_app.training.train import train
from stress.options import console

TRAIN = PROJECT_ROOT / "data" / "train.csv"


@click.command()
@click.argument("rows", type=click.IntRange(min=1), default=400_000)
def main(rows: int) -> None:
    """Times both with ROWS rows."""
    if not TRAIN.exists():
        raise click.ClickException(f"{TRAIN} is missing: make data")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, model, pipeline, out = (folder / part for part in ("rows.csv", "model", "pipeline.pkl", "out"))
        _write_rows(source, rows)
        draft, _ = train(TRAIN, target="y", method="two-stage")
        _write_pipeline(pipeline, save_components(model, draft).manifest)
        plain = _time("benchmarks.plain_script", pipeline, source, folder / "plain.parquet")
        ours = _time("serve_app", "score", source, "--output", out, "--components", model)
        if ds.dataset(out, format="parquet").count_rows() != rows:
            raise click.ClickException("some rows have no answer")
        console.print(f"{rows:,} rows, {source.stat().st_size / 1e6:,.0f} MB")
        for what, seconds in (("pandas + Pipeline", plain), ("python -m serve_app score", ours)):
            console.print(f"{what}: {seconds:.1f} s, {rows / seconds:,.0f} rows/s")


def _write_rows(path: Path, rows: int) -> None:
    header, *lines = TRAIN.read_text(encoding="utf-8").splitlines(keepends=True)
    with path.open("w", encoding="utf-8") as file:
        file.write(header)
        for start in range(0, rows, len(lines)):
            file.writelines(lines[: rows - start])


def _write_pipeline(path: Path, manifest: Manifest) -> None:
    """A Pipeline on the columns that the model uses, with their kinds."""
    kinds = {name: str(manifest.schema.column(name).kind) for name in manifest.selected_features}
    columns = make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), [name for name, kind in kinds.items() if kind != "categorical"]),
        (OneHotEncoder(handle_unknown="ignore"), [name for name, kind in kinds.items() if kind == "categorical"]),
    )
    target = pd.read_csv(TRAIN, usecols=["y"])["y"]
    joblib.dump((make_pipeline(columns, LogisticRegression()).fit(read_table(TRAIN, kinds), target), kinds), path)


def _time(module: str, *arguments: str | Path) -> float:
    start = time.perf_counter()
    command = [sys.executable, "-m", module, *map(str, arguments)]
    subprocess.run(command, check=True, cwd=PROJECT_ROOT, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
