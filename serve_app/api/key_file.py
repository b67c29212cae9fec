"""The file of API keys: its format, and creating, listing and revoking keys.

Owns the format of the file and of a key. The file contains no key, only the SHA-256 of each. A slow password hash is not
needed, because a key has 256 random bits, which cannot be guessed. Knows no request: keyring.py checks those.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from serve_app.atomic_files import replacing
from serve_app.errors import KeysError

__all__ = ["KEY_FORMAT", "SCOPES", "Key", "Scope", "make_key", "read_keys", "revoke_key"]

Scope = Literal["predict", "model"]
SCOPES: tuple[Scope, ...] = ("predict", "model")
KEY_FORMAT = re.compile(r"cp_([0-9a-f]{8})_[A-Za-z0-9_-]{43}", re.ASCII)


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The entry of one key. Its ``requests_per_s`` and ``requests_at_once`` override those of the settings."""

    id: Annotated[str, Meta(pattern="^[0-9a-f]{8}$")]
    name: Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._@ -]{0,63}$")]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    scopes: tuple[Scope, ...]
    created: Annotated[datetime, Meta(tz=True)]
    expires: Annotated[datetime, Meta(tz=True)] | None = None
    requests_per_s: Annotated[float, Meta(gt=0)] | None = None
    requests_at_once: Annotated[int, Meta(gt=0)] | None = None


class _KeysFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal[1]
    keys: tuple[Key, ...]


def read_keys(path: Path) -> tuple[Key, ...]:
    """The entries of a file.

    Raises:
        KeysError: it cannot be read, is not a keys file, or two keys have the same id.
    """
    try:
        keys = msgspec.json.decode(path.read_bytes(), type=_KeysFile).keys
    except OSError as error:
        raise KeysError(str(path), f"cannot be read: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise KeysError(str(path), f"is not a keys file: {error}") from error
    if len({key.id for key in keys}) != len(keys):
        raise KeysError(str(path), "has two keys with the same id")
    return keys


def make_key(  # noqa: PLR0913 - the options of a key
    path: Path,
    name: str,
    scopes: Sequence[Scope] = SCOPES,
    *,
    expires_in: timedelta | None = None,
    requests_per_s: float | None = None,
    requests_at_once: int | None = None,
) -> str:
    """Creates a key and adds its entry to the file, which is created if it does not exist.

    Args:
        path: of the file.
        name: 1 to 64 letters, digits, spaces and ``._@-``, for people.
        scopes: what the key is good for.
        expires_in: from now; None is never.
        requests_per_s: overrides the limit of the settings.
        requests_at_once: overrides the limit of the settings.

    Returns:
        The key itself, which is stored nowhere.

    Raises:
        KeysError: the file cannot be used, or the name or a limit is invalid.
    """
    identifier, now = secrets.token_hex(4), datetime.now(UTC).replace(microsecond=0)
    token = f"cp_{identifier}_{secrets.token_urlsafe(32)}"
    key = Key(
        id=identifier,
        name=name,
        sha256=hashlib.sha256(token.encode()).hexdigest(),
        scopes=tuple(scopes),
        created=now,
        expires=None if expires_in is None else now + expires_in,
        requests_per_s=requests_per_s,
        requests_at_once=requests_at_once,
    )
    try:
        msgspec.convert(msgspec.to_builtins(key), Key)
    except msgspec.ValidationError as error:
        raise KeysError(str(path), f"the key is invalid: {error}") from error
    with _locked(path):
        _write_keys(path, (*(read_keys(path) if path.exists() else ()), key))
    return token


def revoke_key(path: Path, identifier: str) -> Key:
    """Removes a key from the file; returns its entry.

    Raises:
        KeysError: the file cannot be used, or has no key with this id.
    """
    with _locked(path):
        keys = read_keys(path)
        revoked = [key for key in keys if key.id == identifier]
        if not revoked:
            raise KeysError(str(path), f"has no key with the id {identifier!a}")
        _write_keys(path, tuple(key for key in keys if key.id != identifier))
    return revoked[0]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lets one process at a time change the file: with two, the slower one might write a revoked key back."""
    try:
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise KeysError(str(path), f"cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _write_keys(path: Path, keys: tuple[Key, ...]) -> None:
    """Replaces the file, but keeps its owner, group and mode: the service may run as another user than this command."""
    content = msgspec.json.format(msgspec.json.encode(_KeysFile(1, keys)), indent=1).decode() + "\n"
    try:
        replaced = path.stat() if path.exists() else None
        with replacing(path) as file:
            if replaced is not None:
                _give(file.fileno(), path, replaced)
            os.fchmod(file.fileno(), 0o600 if replaced is None else stat.S_IMODE(replaced.st_mode))
            file.write(content)
    except OSError as error:
        raise KeysError(str(path), f"cannot be written: {error.strerror}") from error


def _give(descriptor: int, path: Path, replaced: os.stat_result) -> None:
    try:
        os.fchown(descriptor, replaced.st_uid, replaced.st_gid)
    except PermissionError as error:
        # With another owner, the service could no longer read its keys, and would reject every request.
        raise KeysError(str(path), "belongs to another user: change it as that user, or as root") from error
