"""Every error that this package raises on purpose, as one tree.

    ServeAppError
    ├── SettingsError          a setting (config file, environment file, option) cannot be used
    ├── ComponentsError        model components cannot be used; names the file and the reason
    ├── TableError             a table cannot be trained on or read; names row and column
    ├── KeysError              the file of API keys cannot be used; gives the reason
    ├── StartError             the service did not start
    │   └── PortInUseError         another process listens on an address that the service needs
    ├── ServiceDiedError       a running service ended without being told to
    ├── NotReadyError          the service does not answer, or answers that it is not ready
    ├── ReleaseError           a version was not deployed or rolled back; gives the reason
    ├── AccessError            the caller lacks permission or exceeds its rate limit
    │   ├── UnauthorizedError      the API key is missing or not valid
    │   ├── ForbiddenError         the API key is valid but lacks the scope
    │   └── TooManyRequestsError   the API key has reached its limit; says when to try again
    ├── OverloadedError        the service has no room for the request at the moment
    ├── RequestError           a request is refused as a whole
    │   ├── MalformedJSONError     the body is not valid JSON
    │   ├── MalformedGzipError     the body is declared as gzip but is not
    │   ├── NotRowsError           the body is JSON, but neither a row object nor an array
    │   ├── TooManyRowsError       more rows than the limit
    │   ├── BodyTooLargeError      more bytes than the limit
    │   ├── BodyTooSlowError       the body did not arrive in time
    │   ├── NotExplainableError    this model's answers cannot be explained
    │   ├── InvalidRowsError       some rows cannot be scored; carries the problems of each
    │   └── NotScorableError       the rows are valid, but the model itself fails on one of them
    └── ScoringError           the service failed to score; nothing is wrong with the request

Errors cross process boundaries by pickle, which rebuilds them from ``args``: each passes all its arguments on to
``super().__init__`` and formats its message in ``__str__``. This module knows neither HTTP statuses nor exit codes; those
belong to the api and cli rooms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Self

import msgspec
from msgspec import Meta

MAX_LISTED_PROBLEMS = 100
"""The most problems that one error body lists; the others are only counted."""


class FieldProblem(msgspec.Struct, frozen=True, omit_defaults=True):
    """A problem (or a warning) with one field of one row of a request.

    ``row`` counts from 0 within the request; ``field`` is None when the row itself is not an object.
    """

    row: int
    field: str | None
    code: str
    message: str


class ErrorDetail(msgspec.Struct, frozen=True):
    """What is wrong: ``code`` is for programs and stays the same, ``message`` is for people.

    ``rows`` lists the first problems of rows that cannot be scored, ``bad_rows`` counts all such rows.
    """

    code: str
    message: str
    request_id: str
    rows: Annotated[Sequence[FieldProblem], Meta(max_length=MAX_LISTED_PROBLEMS)]
    bad_rows: int


class ErrorBody(msgspec.Struct, frozen=True):
    """The JSON body of every error response."""

    error: ErrorDetail

    @classmethod
    def of(cls, code: str, message: str, request_id: str = "", problems: Sequence[FieldProblem] = ()) -> Self:
        """The body of an error, with the first of ``problems`` and the number of rows that have any."""
        bad_rows = len({problem.row for problem in problems})
        return cls(ErrorDetail(code, message, request_id, problems[:MAX_LISTED_PROBLEMS], bad_rows))


class ServeAppError(Exception):
    """Base of every error that this package raises on purpose."""


class SettingsError(ServeAppError):
    """A setting cannot be used; the message names the file and line, or the option."""


class _FileError(ServeAppError):
    """A file or folder cannot be used.

    Args:
        path: the file or folder.
        reason: one line, without the path.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class ComponentsError(_FileError):
    """Model components cannot be used."""


class TableError(ServeAppError):
    """A table cannot be trained on or read."""


class KeysError(_FileError):
    """The file of API keys cannot be used."""


class StartError(ServeAppError):
    """The service did not start."""


class PortInUseError(StartError):
    """Another process listens on an address that the service needs."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.host = host
        self.port = port

    def __str__(self) -> str:
        return (
            f"port {self.port} on {self.host} is already in use: stop what listens there, "
            "or set another http_options.port in the config file"
        )


class ServiceDiedError(ServeAppError):
    """A running service ended without being told to."""


class NotReadyError(ServeAppError):
    """The service does not answer, or answers that it is not ready."""


class ReleaseError(ServeAppError):
    """A version was not deployed or rolled back; the message gives the reason."""


class AccessError(ServeAppError):
    """The caller lacks permission or exceeds its rate limit; ``code`` is part of the answer."""

    code: ClassVar[str] = "forbidden"


class UnauthorizedError(AccessError):
    """The API key is missing or not valid; the message never says what is wrong with a key.

    Args:
        is_given: whether the request carried any credentials.
    """

    code = "unauthorized"

    def __init__(self, is_given: bool) -> None:
        super().__init__(is_given)
        self.is_given = is_given

    def __str__(self) -> str:
        return "the API key is not valid" if self.is_given else "an API key is needed: Authorization: Bearer <key>"


class ForbiddenError(AccessError):
    """The API key is valid but lacks ``scope``."""

    def __init__(self, scope: str) -> None:
        super().__init__(scope)
        self.scope = scope

    def __str__(self) -> str:
        return f"the API key is not for {self.scope!r}"


class TooManyRequestsError(AccessError):
    """The API key has reached its limit.

    Args:
        reason: which limit.
        retry_after_s: when to try again, in whole seconds.
    """

    code = "too_many_requests"

    def __init__(self, reason: str, retry_after_s: int) -> None:
        super().__init__(reason, retry_after_s)
        self.reason = reason
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return self.reason


class OverloadedError(ServeAppError):
    """The service has no room for the request at the moment; nothing is wrong with the request."""

    def __str__(self) -> str:
        return "the service already holds as many bytes of requests as its limit allows"


class RequestError(ServeAppError):
    """A request is refused as a whole; ``code`` is part of the answer."""

    code: ClassVar[str] = "bad_request"


class MalformedJSONError(RequestError):
    """The body is not valid JSON; ``offset`` is the position of the first wrong byte."""

    code = "malformed_json"

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(reason, offset)
        self.reason = reason
        self.offset = offset

    def __str__(self) -> str:
        return f"the body is not valid JSON: {self.reason} (byte {self.offset})"


class MalformedGzipError(RequestError):
    """The body is declared as gzip but is not."""

    code = "malformed_gzip"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the body is not valid gzip: {self.reason}"


class NotRowsError(RequestError):
    """The body is JSON, but neither a row object nor an array of them."""

    code = "not_rows"

    def __init__(self, found: str) -> None:
        super().__init__(found)
        self.found = found

    def __str__(self) -> str:
        return f"expected an array of row objects, or one row object; got {self.found}"


class TooManyRowsError(RequestError):
    """More rows than the limit."""

    code = "too_many_rows"

    def __init__(self, max_rows: int) -> None:
        super().__init__(max_rows)
        self.max_rows = max_rows

    def __str__(self) -> str:
        return f"more than {self.max_rows} rows in one request; split it"


class BodyTooLargeError(RequestError):
    """More bytes than the limit."""

    code = "body_too_large"

    def __init__(self, max_body_bytes: int) -> None:
        super().__init__(max_body_bytes)
        self.max_body_bytes = max_body_bytes

    def __str__(self) -> str:
        return f"the body is larger than {self.max_body_bytes} bytes; split the request"


class BodyTooSlowError(RequestError):
    """The body did not arrive in time."""

    code = "request_timeout"

    def __str__(self) -> str:
        return "the body did not arrive in time"


class NotExplainableError(RequestError):
    """This model's answers cannot be explained."""

    code = "not_explainable"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the answers of this model cannot be explained: {self.reason}"


class InvalidRowsError(RequestError):
    """Some rows cannot be scored.

    Args:
        problems: in the order of the rows.
    """

    code = "invalid_rows"

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        count = len({problem.row for problem in self.problems})
        first = self.problems[0]
        return f"{count} row{'s' if count > 1 else ''} cannot be scored; the first is row {first.row}: {first.message}"


class NotScorableError(RequestError):
    """The rows are valid, but the model itself fails on one of them, and would again.

    Args:
        reason: the message of the estimator.
        row: the first such row, counted from 0 within the request; None if no row fails by itself.
    """

    code = "not_scorable"

    def __init__(self, reason: str, row: int | None = None) -> None:
        super().__init__(reason, row)
        self.reason = reason
        self.row = row

    def __str__(self) -> str:
        which = "a row" if self.row is None else f"row {self.row}"
        return f"the model cannot score {which} of the request: {self.reason}"


class ScoringError(ServeAppError):
    """The service failed to score; nothing is wrong with the request."""
