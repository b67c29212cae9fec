"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

from stress.dataset import PROJECT_ROOT

__all__ = ["PATH", "data_option", "seed_option", "url_option"]

PATH = click.Path(path_type=Path)

url_option = click.option(
    "--url",
    default="http://127.0.0.1:1313",
    show_default=True,
    callback=lambda _context, _option, value: value.rstrip("/"),
    help="Of the service.",
)
seed_option = click.option("--seed", type=int, default=26, show_default=True, help="Of everything random.")
data_option = click.option(
    "--data",
    type=PATH,
    default=PROJECT_ROOT / "data",
    show_default="data",
    help="Folder of test.json and expected.json; written if missing.",
)
