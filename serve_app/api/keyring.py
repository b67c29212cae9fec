"""The API keys that are valid now: which key a request has, what it may do, and how often.

Owns the check of credentials and the counts of each key's requests. Knows no HTTP beyond the value of the Authorization header;
responses.py turns the errors raised here into statuses and headers.

The file of keys is read again when it changes, so that keys can be added and revoked without a restart. While it cannot be
read, every request is rejected: a mistake in the file must not keep a revoked key valid.
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
_POLL_INTERVAL_S = 1.0  # the longest time until a change of the file takes effect
_NOBODY = bytes(32)  # compared with if no key has the given id, so that the time of the response does not tell
_logger = logging.getLogger("ray.serve")  # the logger whose records Ray Serve keeps with the replica's


class _Usage:
    """The counts of one key; they are kept when the file changes."""

    def __init__(self) -> None:
        self.tokens = 0.0
        self.filled_at = -math.inf
        self.ongoing = 0


class Account:
    """A key with its limits: a token bucket for the rate, and the number of its concurrent requests.

    As a context manager it counts one concurrent request.

    Args:
        key: its limits override those of ``settings``.
        settings: the limits of all keys.
        predecessor: the account of the same key before the file changed, whose counts go on.
    """

    def __init__(self, key: Key, settings: AccessSettings, predecessor: Account | None) -> None:
        self.key = key
        self.digest = bytes.fromhex(key.sha256)
        self.usage: _Usage = _Usage() if predecessor is None else predecessor.usage
        self._rate = key.requests_per_s or settings.requests_per_s
        self._at_once = key.requests_at_once or settings.requests_at_once
        self._burst = max(1.0, math.ceil(self._rate or 1))  # one second of the rate may be used at once

    def spend(self, now: float) -> None:
        """Counts a request at the time ``now``, in seconds.

        Raises:
            TooManyRequestsError: the key exceeds its rate or its number of concurrent requests.
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
    """The valid keys, as one replica sees them. Each replica counts only its own requests.

    Args:
        path: of the file of keys.
        settings: the limits of all keys.
        clock: in seconds, for the rates and for watching the file.

    Raises:
        KeysError: the file cannot be used.
    """

    def __init__(self, path: Path, settings: AccessSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._settings = settings
        self._clock = clock
        self._accounts: dict[str, Account] = {}
        self._error: KeysError | None = None
        self._polled_at = clock()
        self._loaded_fingerprint = self._fingerprint()
        self._load()
        if self._error is not None:
            raise self._error

    def admit(self, authorization: Sequence[bytes], scope: Scope | None) -> Account:
        """Checks and counts a request; the account of its key.

        Args:
            authorization: the values of all its Authorization headers.
            scope: that the key must have; None if any key will do.

        Raises:
            UnauthorizedError: no key, or an invalid one.
            ForbiddenError: the key does not have this scope.
            TooManyRequestsError: it exceeds its limits.
            KeysError: the file of keys can no longer be used.
        """
        now = self._clock()
        if now - self._polled_at >= _POLL_INTERVAL_S:
            self._polled_at = now
            self._reload_if_changed()
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

    def _reload_if_changed(self) -> None:
        fingerprint = self._fingerprint()
        if fingerprint != self._loaded_fingerprint:
            self._loaded_fingerprint = fingerprint
            self._load()

    def _load(self) -> None:
        try:
            keys = read_keys(self._path)
        except KeysError as error:
            self._error = error
            _logger.error("every request is rejected: %s", error)  # noqa: TRY400 - the message is complete without a traceback
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
