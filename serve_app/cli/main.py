"""``python -m serve_app``: the group of all commands.

Owns how an error ends a command: one line on standard error, without a stack trace, and an exit code: 2 if an option or a
setting cannot be used, as click does, 1 for any other failure. Each family of commands has a module of its own, and each
command calls one function of a room below.
"""

from __future__ import annotations

import signal
from typing import Any

import click

from serve_app.cli import files, keys, models, service
from serve_app.errors import ServeAppError, SettingsError

__all__ = ["main"]


class _SettingsFailure(click.ClickException):
    """A failure that is the user's to correct in a setting."""

    exit_code = 2


class _Commands(click.Group):
    """Turns the errors of this package, and those of files, into one line."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ServeAppError as error:
            raise (_SettingsFailure if isinstance(error, SettingsError) else click.ClickException)(str(error)) from error
        except OSError as error:
            reason = error.strerror or str(error) or type(error).__name__
            raise click.ClickException(f"{error.filename}: {reason}" if error.filename else reason) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def main(context: click.Context) -> None:
    """Scores tabular rows with a fitted classifier, on Ray Serve."""
    handles_signals = {command.name for command in (service.run, service.join_cluster)}
    if context.invoked_subcommand not in handles_signals and signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # so that files and the terminal are tidied up


for command in (*service.COMMANDS, *files.COMMANDS, *models.COMMANDS, keys.keys_group):
    main.add_command(command)
