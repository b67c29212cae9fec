"""Options that several commands share, and their types."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from serve_app.config import PROJECT_ROOT

__all__ = [
    "PATH",
    "Finite",
    "address_option",
    "components_option",
    "config_option",
    "drain_option",
    "env_file_option",
    "host_option",
    "out_option",
    "port_option",
    "seed_option",
    "unknown_option",
]


class Finite(click.FloatRange):
    """A range of floats without infinity and NaN, which compare as if they were in any range without bounds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Converts and checks a value, as every click type does."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


PATH = click.Path(path_type=Path)
components_option = click.option(
    "--components", type=PATH, default=Path("model_components"), show_default=True, help="Folder of model components."
)
# No default: the folder that comes to mind holds the model that is served, and it would be replaced.
out_option = click.option(
    "--out", type=PATH, required=True, help="Folder to write the components to; its contents are replaced."
)
unknown_option = click.option(
    "--unknown-category",
    type=click.Choice(["as_null", "reject"]),
    default="as_null",
    show_default=True,
    help="How to handle a category that the training table does not contain: as a missing value, or by refusing the row.",
)
config_option = click.option(
    "--config",
    type=PATH,
    default=PROJECT_ROOT / "config" / "serve_config.yaml",
    show_default="config/serve_config.yaml",
    help="Ray Serve config file.",
)
host_option = click.option(
    "--host", envvar="SERVE_APP_HOST", show_envvar=True, help="Address to listen on (default: from the config)."
)
env_file_option = click.option(
    "--env-file",
    type=PATH,
    default=PROJECT_ROOT / "config" / "serve.env",
    show_default="config/serve.env",
    help="File of KEY=VALUE lines with Ray's environment; a variable that is set already keeps its value.",
)
drain_option = click.option(
    "--drain-timeout",
    type=Finite(min=0),
    default=30.0,
    show_default=True,
    help="Seconds that requests in flight may take when the service stops.",
)
seed_option = click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=26, show_default=True, help="Seed of the random numbers."
)
address_option = click.option(
    "--address",
    envvar="RAY_ADDRESS",
    show_envvar=True,
    help="Address of a Ray cluster (default: the cluster of a service that runs on this machine).",
)
port_option = click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="HTTP port of the service on this machine; needed only if several run here.",
)
