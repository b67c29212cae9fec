"""Ray's token: the secret by which Ray's processes, and commands such as ``deploy``, know each other."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

__all__ = ["make_token"]


def make_token() -> None:
    """Writes a token where Ray looks for it, readable by this user only, unless there is one.

    Ray makes one itself when it is alone, but readable by everyone on the machine.
    """
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if "RAY_AUTH_TOKEN" in os.environ or path.exists():
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    scratch.touch(mode=0o600)
    scratch.write_text(secrets.token_hex(32), encoding="ascii")
    scratch.rename(path)  # atomically: a worker that waits for the token reads all of it
