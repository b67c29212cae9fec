"""The response to each error."""

from __future__ import annotations

import json

import pytest

from serve_app.api.responses import error_response
from serve_app.errors import (
    BodyTooLargeError,
    BodyTooSlowError,
    FieldProblem,
    InvalidRowsError,
    MalformedJSONError,
    NotScorableError,
    ScoringError,
    TooManyRowsError,
)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (MalformedJSONError("x", 1), 400, "malformed_json"),
        (BodyTooSlowError(), 408, "request_timeout"),
        (BodyTooLargeError(1), 413, "body_too_large"),
        (TooManyRowsError(1), 413, "too_many_rows"),
        (ScoringError("lost"), 503, "unavailable"),
        (TimeoutError(), 503, "unavailable"),
        (RuntimeError("secret"), 500, "internal_error"),
    ],
)
def test_an_error_has_its_status_and_code_and_tells_no_secret(error: Exception, status: int, code: str) -> None:
    found, headers, pieces = error_response({"headers": [(b"x-request-id", b"abc")]}, error)
    body = json.loads(b"".join(pieces))["error"]
    assert (found, body["code"], body["request_id"]) == (status, code, "abc")
    assert "secret" not in body["message"]
    assert (b"retry-after" in dict(headers)) == (status == 503)
    assert (b"connection" in dict(headers)) == (status in {408, 413})


def test_what_is_unforeseen_is_logged_with_its_place_and_without_what_it_quotes(caplog: pytest.LogCaptureFixture) -> None:
    value = "a value" + " of a row"
    try:
        float(value)
    except ValueError as error:
        error_response({"headers": [(b"x-request-id", b"abc")]}, error)
    assert "request abc failed: ValueError" in caplog.text
    assert "test_what_is_unforeseen_is_logged" in caplog.text
    assert value not in "".join(record.getMessage() for record in caplog.records)


def test_an_error_of_invalid_rows_has_the_code_of_the_first() -> None:
    problems = [FieldProblem(2, "x", "missing_field", "m"), FieldProblem(3, "x", "not_a_number", "n")]
    status, _, pieces = error_response({"headers": []}, InvalidRowsError(problems))
    body = json.loads(b"".join(pieces))["error"]
    assert (status, body["code"], body["bad_rows"]) == (422, "missing_field", 2)


@pytest.mark.parametrize(("row", "bad_rows"), [(7, [7]), (None, [])])
def test_a_row_that_the_model_cannot_score_is_named_if_it_is_known(row: int | None, bad_rows: list[int]) -> None:
    status, _, pieces = error_response({"headers": []}, NotScorableError("ValueError: 'infinity'", row))
    body = json.loads(b"".join(pieces))["error"]
    assert (status, body["code"], body["bad_rows"]) == (422, "not_scorable", len(bad_rows))
    assert [problem["row"] for problem in body["rows"]] == bad_rows
