from __future__ import annotations

import pickle
import re

import pytest

from serve_app import errors
from serve_app.errors import FieldProblem

PROBLEM = FieldProblem(3, "x53", "not_a_number", "row 3, field 'x53': 'abc' is not a number")


@pytest.mark.parametrize(
    "error",
    [
        errors.SettingsError("wrong"),
        errors.ComponentsError("model.pkl", "is missing"),
        errors.TableError("row 1"),
        errors.KeysError("keys.json", "is missing"),
        errors.StartError("no ports"),
        errors.PortInUseError("127.0.0.1", 1313),
        errors.ServiceDiedError("raylet"),
        errors.NotReadyError("503"),
        errors.ReleaseError("another version"),
        errors.UnauthorizedError(is_given=True),
        errors.ForbiddenError("predict"),
        errors.TooManyRequestsError("10 per second", 1),
        errors.OverloadedError(),
        errors.MalformedJSONError("invalid character", 7),
        errors.NotRowsError("null"),
        errors.TooManyRowsError(5),
        errors.BodyTooLargeError(10),
        errors.BodyTooSlowError(),
        errors.InvalidRowsError([PROBLEM]),
        errors.NotScorableError("ValueError: 'infinity'"),
        errors.NotScorableError("ValueError: 'infinity'", 7),
        errors.ScoringError("lost"),
    ],
)
def test_an_error_crosses_a_process_boundary_unchanged(error: errors.ServeAppError) -> None:
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_invalid_rows_count_rows_and_not_fields() -> None:
    twice = FieldProblem(3, "x44", "missing_field", "row 3")
    assert str(errors.InvalidRowsError([PROBLEM, twice])).startswith("1 row cannot be scored")


def test_the_tree_in_the_docstring_is_that_of_the_classes() -> None:
    drawn = re.findall(r"^([ │├└─]*)([A-Z]\w+Error)\b", errors.__doc__ or "", re.MULTILINE)
    depths = {name: len(branch) // 4 for branch, name in drawn}
    classes = {name: value for name, value in vars(errors).items() if name.endswith("Error") and not name.startswith("_")}
    public = {name: [each.__name__ for each in value.__mro__ if each.__name__ in classes] for name, value in classes.items()}
    assert depths == {name: len(parents) for name, parents in public.items()}
