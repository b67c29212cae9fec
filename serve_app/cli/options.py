"""Options that several commands share, and what commands print alike."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from serve_app.config import PROJECT_ROOT
from serve_app.errors import SettingsError

__all__ = [
    "PATH",
    "address_option",
    "announce_components",
    "components_option",
    "config_option",
    "console",
    "count",
    "drain_option",
    "env_file_option",
    "host_option",
    "needs_data_packages",
    "out_option",
    "print_columns",
    "seed_option",
    "unknown_option",
]

console = Console(highlight=False, soft_wrap=True)
PATH = click.Path(path_type=Path)
components_option = click.option(
    "--components",
    type=PATH,
    default=Path("model_components"),
    show_default=True,
    help="Folder of model components.",
)
# Without a default: what stands at hand is the model that is served, and writing replaces it.
out_option = click.option("--out", type=PATH, required=True, help="Folder to write components to; what is there is replaced.")
unknown_option = click.option(
    "--unknown-category",
    type=click.Choice(["as_null", "reject"]),
    default="as_null",
    show_default=True,
    help="What a category does that the training table does not have: count as missing, or refuse the row.",
)
config_option = click.option(
    "--config",
    type=PATH,
    default=PROJECT_ROOT / "config" / "serve_config.yaml",
    show_default="config/serve_config.yaml",
    help="Ray Serve config file.",
)
host_option = click.option(
    "--host", envvar="SERVE_APP_HOST", show_envvar=True, help="What HTTP listens on, in the place of the config's."
)
env_file_option = click.option(
    "--env-file",
    type=PATH,
    default=PROJECT_ROOT / "config" / "serve.env",
    show_default="config/serve.env",
    help="Environment of Ray, as KEY=VALUE lines; a variable that is set already keeps its value.",
)
drain_option = click.option(
    "--drain-timeout",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Seconds that what is in flight may take at the end.",
)
address_option = click.option(
    "--address", default="auto", show_default=True, help="Of the Ray cluster; auto is the one that runs on this machine."
)
seed_option = click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=26, show_default=True, help="Of everything random."
)


@contextlib.contextmanager
def needs_data_packages() -> Iterator[None]:
    """Turns a missing package of ``make install-data`` into a sentence that says so."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in {"pyarrow", "fsspec"}:
            raise
        raise SettingsError("reading files takes what make install-data installs") from error


def count(count: int, one: str, many: str) -> str:
    """A number with its noun, in the singular or the plural."""
    return f"{count} {one if count == 1 else many}"


def print_columns(manifest: Any, left_out: Any) -> None:
    """A table of the columns: kind, levels, and why a column was left out."""
    kinds = Table("column", "kind", "")
    used = set(manifest.selected_features)
    for column in manifest.schema.columns:
        shown = ", ".join(column.levels[:5]) + (f" and {len(column.levels) - 5} more" if len(column.levels) > 5 else "")
        kinds.add_row(escape(column.name), column.kind, escape(shown) if column.name in used else "not used by the model")
    for column, why in left_out.items():
        kinds.add_row(escape(column), "left out", escape(why))
    console.print(kinds)


def announce_components(folder: Path, components: Any) -> None:
    """Says that components are sound, and what was verified."""
    manifest = components.manifest
    files = count(len(manifest.files), "file matches its digest", "files match their digests")
    console.print(
        f"{folder}: {manifest.name} {manifest.version} is sound: {files}, "
        f"{len(manifest.golden)} golden rows their probabilities (manifest {components.digest[:12]})"
    )
