"""Commands about API keys."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from serve_app.cli.options import PATH, Finite
from serve_app.cli.printing import console

if TYPE_CHECKING:
    from serve_app.api.key_file import Scope

__all__ = ["keys_group"]

_MAX_DAYS = 36_500


@click.group("keys")
def keys_group() -> None:
    """Make, list and revoke API keys; a running service notices within a second."""


_keys_file_option = click.option(
    "--file", "path", type=PATH, default=Path("config", "keys.json"), show_default=True, help="File of API keys."
)


@keys_group.command("make")
@click.argument("name")
@_keys_file_option
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(["predict", "model"]),
    multiple=True,
    default=("predict", "model"),
    show_default=True,
    help="What the key permits; can be repeated.",
)
@click.option(
    "--expires-in-days", type=Finite(min=0, max=_MAX_DAYS, min_open=True), help="Days until the key expires (default: never)."
)
@click.option("--requests-per-s", type=Finite(min=0, min_open=True), help="Requests per second (default: from the config).")
@click.option("--requests-at-once", type=click.IntRange(min=1), help="Requests in flight (default: from the config).")
def make(  # noqa: PLR0913, PLR0917 - click passes options as arguments
    name: str,
    path: Path,
    scopes: tuple[Scope, ...],
    expires_in_days: float | None,
    requests_per_s: float | None,
    requests_at_once: int | None,
) -> None:
    """Make a key for NAME and print it. The file holds only its SHA-256, so the key cannot be shown again."""
    from serve_app.api.key_file import make_key

    key = make_key(
        path,
        name,
        scopes,
        expires_in=None if expires_in_days is None else timedelta(days=expires_in_days),
        requests_per_s=requests_per_s,
        requests_at_once=requests_at_once,
    )
    click.echo(key)
    click.echo(f"Keep this key: {path} holds only its SHA-256, so it cannot be shown again.", err=True)


@keys_group.command("list")
@_keys_file_option
def list_keys(path: Path) -> None:
    """List the keys of the file."""
    from serve_app.api.key_file import read_keys

    table = Table("id", "name", "scopes", "made", "expires", "requests/s", "at once")
    for key in read_keys(path):
        expires = "never" if key.expires is None else f"{key.expires:%Y-%m-%d %H:%M}"
        limits = (str(limit or "") for limit in (key.requests_per_s, key.requests_at_once))
        table.add_row(key.id, key.name, ", ".join(key.scopes), f"{key.created:%Y-%m-%d %H:%M}", expires, *limits)
    console.print(table)


@keys_group.command("revoke")
@click.argument("identifier", metavar="ID")
@_keys_file_option
def revoke(identifier: str, path: Path) -> None:
    """Remove the key ID from the file. The ID is part of the key, cp_ID_..., and of the list."""
    from serve_app.api.key_file import revoke_key

    key = revoke_key(path, identifier)
    console.print(f"{key.id} ({key.name}) is revoked.")
