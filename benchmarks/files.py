"""Rows of a file per second: ``python -m serve_app score`` and a plain script of pandas and a Pipeline, in turn.

    python -m benchmarks.files [ROWS]

Both read the same CSV file, made of the stand-in's training rows, use the same columns, and write Parquet; both times are of
the whole process, with the start of Python, of Ray and the loading of the model. The script's model is fitted by
scikit-learn's own objects on the same rows; what is compared is the time.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import joblib
import pandas as pd
import pyarrow.dataset as ds
from rich.console import Console
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from serve_app.components.manifest import Manifest
from serve_app.components.saving import save_components
from serve_app.config import PROJECT_ROOT
from serve_app.training.train import train

__all__ = ["main"]

TRAIN = PROJECT_ROOT / "data" / "train.csv"

PLAIN = """
import sys
import joblib, pandas as pd
kind, source, out = sys.argv[1:]
def read(path, kinds):
    frame = pd.read_csv(path, usecols=list(kinds))[list(kinds)]
    for name, kind in kinds.items():
        if kind == "money":
            is_negative = frame[name].str.contains("[(-]", regex=True, na=False)
            amount = pd.to_numeric(frame[name].str.replace("[$,()-]", "", regex=True))
            frame[name] = amount.where(~is_negative, -amount)
        elif kind == "percent":
            frame[name] = pd.to_numeric(frame[name].str.removesuffix("%"))
    return frame
pipeline, kinds = joblib.load(kind)
pd.DataFrame(pipeline.predict_proba(read(source, kinds))[:, 1:], columns=["probability_positiveclass"]).to_parquet(out)
"""


@click.command()
@click.argument("rows", type=click.IntRange(min=1), default=400_000)
def main(rows: int) -> None:
    """Times both on so many rows."""
    if not TRAIN.exists():
        raise click.ClickException(f"{TRAIN} is missing: make data")
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = _write_rows(folder / "rows.csv", rows)
        draft, _ = train(TRAIN, target="y")
        manifest = save_components(folder / "model", draft).manifest
        joblib.dump(_pipeline(manifest), folder / "pipeline.pkl")
        plain = _time([sys.executable, "-c", PLAIN, folder / "pipeline.pkl", source, folder / "plain.parquet"])
        command = [sys.executable, "-m", "serve_app", "score", source, "--output", folder / "out"]
        ours = _time([*command, "--components", folder / "model"])
        if ds.dataset(folder / "out", format="parquet").count_rows() != rows:
            raise click.ClickException("some rows have no answer")
        console.print(f"{rows:,} rows, {source.stat().st_size / 1e6:,.0f} MB")
        for what, seconds in (("pandas + Pipeline", plain), ("python -m serve_app score", ours)):
            console.print(f"{what}: {seconds:.1f} s, {rows / seconds:,.0f} rows/s")


def _write_rows(path: Path, rows: int) -> Path:
    with TRAIN.open(encoding="utf-8") as file:
        header, *lines = file.readlines()
    with path.open("w", encoding="utf-8") as file:
        file.write(header)
        for start in range(0, rows, len(lines)):
            file.writelines(lines[: rows - start])
    return path


def _pipeline(manifest: Manifest) -> tuple[Any, dict[str, str]]:
    """A Pipeline on the columns that the model uses, and what these are."""
    kinds = {name: manifest.schema.column(name).kind for name in manifest.selected_features}
    numbers = [name for name, kind in kinds.items() if kind != "categorical"]
    categories = [name for name, kind in kinds.items() if kind == "categorical"]
    read = PLAIN[PLAIN.index("def read") : PLAIN.index("pipeline, kinds")]
    scope: dict[str, Any] = {"pd": pd}
    exec(read, scope)  # noqa: S102 - our own text, so that training reads what the script reads
    columns = make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), numbers),
        (OneHotEncoder(handle_unknown="ignore"), categories),
    )
    target = pd.read_csv(TRAIN, usecols=["y"])["y"]
    return make_pipeline(columns, LogisticRegression()).fit(scope["read"](TRAIN, kinds), target), dict(kinds)


def _time(command: list[object]) -> float:
    start = time.perf_counter()
    subprocess.run(list(map(str, command)), check=True, cwd=PROJECT_ROOT, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
