"""What every command line of load tests and benchmarks shares: options, the console, one-sentence errors."""

from __future__ import annotations

import functools
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
from rich.console import Console
from rich.table import Table

from stress.dataset import PROJECT_ROOT
from stress.errors import StressError

__all__ = [
    "CONTEXT", "PATH", "Common", "at_least", "common_options", "console", "data_option", "run_command_line", "seed_option",
    "table", "url_option",
]  # fmt: skip

CONTEXT = {"help_option_names": ["-h", "--help"]}
PATH = click.Path(path_type=Path)

console = Console(highlight=False, soft_wrap=True)
console.width = max(console.width, 110)  # the tables need it, even when written to a file

url_option = click.option(
    "--url",
    default="http://127.0.0.1:1313",
    show_default=True,
    callback=lambda _context, _option, value: value.rstrip("/"),
    help="URL of the service.",
)
seed_option = click.option("--seed", type=int, default=26, show_default=True, help="Seed of all random choices.")
data_option = click.option(
    "--data",
    type=PATH,
    default=PROJECT_ROOT / "data",
    show_default="data",
    help="Folder of test.json and expected.json; written if missing.",
)


class Common(NamedTuple):
    """The options of every command that runs a load."""

    seed: int
    data: Path
    out: Path | None

    def folder(self, name: str) -> Path:
        """The folder of the report."""
        return self.out or PROJECT_ROOT / "stress" / "reports" / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def common_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds these options to a command, which receives them as ``common``."""

    @seed_option
    @data_option
    @click.option("--out", type=PATH, help="Folder of the report.  [default: stress/reports/NAME-TIME]")
    @functools.wraps(command)
    def with_common(*, seed: int, data: Path, out: Path | None, **others: Any) -> None:
        command(common=Common(seed, data, out), **others)

    return with_common


def at_least(smallest: float) -> click.FloatRange:
    """The type of an option whose value has a lower bound."""
    return click.FloatRange(min=smallest)


def table(*headings: str, title: str | None = None) -> Table:
    """A table whose first column is aligned left, all others right."""
    made = Table(*headings, title=title)
    for column in made.columns[1:]:
        column.justify = "right"
    return made


def run_command_line(command: click.Command, name: str) -> None:
    """Runs a command line. A StressError becomes one sentence and exit code 1; SIGTERM stops what the command started."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        command(prog_name=name)
    except StressError as error:
        click.ClickException(str(error)).show()
        sys.exit(1)
