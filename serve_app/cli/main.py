"""``python -m serve_app``: the group of all commands.

Owns what becomes of an error: one that this package raises on purpose is one line on standard error and exit code 1. Each
family of commands is a module of its own, and each command calls one function of a room below.
"""

from __future__ import annotations

from typing import Any

import click

from serve_app.cli import files, keys, models, service
from serve_app.errors import ServeAppError

__all__ = ["main"]


class _Commands(click.Group):
    """Prints what a ServeAppError says, or which file cannot be read or written, without a stack trace."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ServeAppError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            raise click.ClickException(f"{error.filename}: {error.strerror}") from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Scores tabular rows with a fitted classifier, on Ray Serve."""


for command in (*service.COMMANDS, *files.COMMANDS, *models.COMMANDS, keys.keys_group):
    main.add_command(command)
