"""API keys: who may ask for what, and how often.

Owns the keys file, the form of a key, and the count of what each key has asked for. The file holds no key, only the SHA-256
of each: a key is 256 random bits, which no dictionary holds, so it needs no slow hash. Knows no HTTP; api.py turns what is
raised here into statuses and headers.

The file is read again when it changes, so that keys come and go without a restart. When it cannot be read, nobody gets in:
a revoked key must not live on because of a mistake in the file.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from serve_app.api.key_file import KEY_FORMAT, Key, Scope, read_keys
from serve_app.config import AccessSettings
from serve_app.errors import ForbiddenError, KeysError, TooManyRequestsError, UnauthorizedError

__all__ = ["Account", "Keyring"]

_BEARER = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +([!-~]+) *")
_POLL_INTERVAL_S = 1.0  # how long a change of the file may take to count
_NOBODY = bytes(32)  # compared with when there is no such key, so that the answer takes as long
_logger = logging.getLogger("ray.serve")  # the logger whose records Ray Serve keeps with the replica's


class _Usage:
    """What a key has used up; it outlives a change of the file."""

    def __init__(self) -> None:
        self.tokens = 0.0
        self.filled_at = -math.inf
        self.ongoing = 0


class Account:
    """A key while it is used: its token bucket, and how many of its requests are being worked on.

    As a context manager it counts one request as being worked on.

    Args:
        key: its own limits go before those of ``settings``.
        settings: of all keys.
        predecessor: the account of the same key before the file changed; what it has used up stays used up.
    """

    def __init__(self, key: Key, settings: AccessSettings, predecessor: Account | None) -> None:
        self.key = key
        self.digest = bytes.fromhex(key.sha256)
        self.usage: _Usage = _Usage() if predecessor is None else predecessor.usage
        self._rate = key.requests_per_s or settings.requests_per_s
        self._at_once = key.requests_at_once or settings.requests_at_once
        self._burst = max(1.0, math.ceil(self._rate or 1))  # what a second brings may come at once

    def spend(self, now: float) -> None:
        """Counts a request at ``now``, in seconds.

        Raises:
            TooManyRequestsError: the key's rate or its requests at once are used up.
        """
        usage = self.usage
        if self._at_once is not None and usage.ongoing >= self._at_once:
            raise TooManyRequestsError(f"more than {self._at_once} requests at once with this key", 1)
        if self._rate is None:
            return
        usage.tokens = min(self._burst, usage.tokens + (now - usage.filled_at) * self._rate)
        usage.filled_at = now
        if usage.tokens < 1.0:
            wait_s = math.ceil((1.0 - usage.tokens) / self._rate)
            raise TooManyRequestsError(f"more than {self._rate:g} requests per second with this key", wait_s)
        usage.tokens -= 1.0

    def __enter__(self) -> Self:
        self.usage.ongoing += 1
        return self

    def __exit__(self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self.usage.ongoing -= 1


class Keyring:
    """The keys that are valid now, in one replica; rates and requests at once are counted in it alone.

    Args:
        path: of the keys file.
        settings: of all keys.
        clock: seconds, for rates and for looking at the file.

    Raises:
        KeysError: the file cannot be used.
    """

    def __init__(self, path: Path, settings: AccessSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._settings = settings
        self._clock = clock
        self._accounts: dict[str, Account] = {}
        self._error: KeysError | None = None
        self._looked_at = clock()
        self._seen = self._fingerprint()
        self._load()
        if self._error is not None:
            raise self._error

    def admit(self, authorization: Sequence[bytes], scope: Scope | None) -> Account:
        """Who may ask for ``scope``, or for anything at all where it is None, by the values of the Authorization header.

        Raises:
            UnauthorizedError: no key, or none that is valid.
            ForbiddenError: the key is not for this scope.
            TooManyRequestsError: it is used up for now.
            KeysError: the file has become one that cannot be used.
        """
        now = self._clock()
        if now - self._looked_at >= _POLL_INTERVAL_S:
            self._looked_at = now
            self._look_again()
        if self._error is not None:
            raise self._error
        account = self._find(authorization)
        if scope is not None and scope not in account.key.scopes:
            raise ForbiddenError(scope)
        account.spend(now)
        return account

    def _find(self, authorization: Sequence[bytes]) -> Account:
        match = _BEARER.fullmatch(authorization[0]) if len(authorization) == 1 else None
        if match is None:
            raise UnauthorizedError(is_given=bool(authorization))
        token = match[1].decode("ascii")
        shape = KEY_FORMAT.fullmatch(token)
        account = self._accounts.get(shape[1]) if shape else None
        digest = hashlib.sha256(token.encode()).digest()
        is_right = hmac.compare_digest(digest, _NOBODY if account is None else account.digest)
        if account is None or not is_right or _has_expired(account.key):
            raise UnauthorizedError(is_given=True)
        return account

    def _look_again(self) -> None:
        seen = self._fingerprint()
        if seen != self._seen:
            self._seen = seen
            self._load()

    def _load(self) -> None:
        try:
            keys = read_keys(self._path)
        except KeysError as error:
            self._error = error
            _logger.error("nobody gets in: %s", error)  # noqa: TRY400 - the sentence says all of it
            return
        self._error = None
        self._accounts = {key.id: Account(key, self._settings, self._accounts.get(key.id)) for key in keys}

    def _fingerprint(self) -> tuple[int, ...] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)


def _has_expired(key: Key) -> bool:
    return key.expires is not None and key.expires <= datetime.now(UTC)
