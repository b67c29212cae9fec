from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import sklearn
from sklearn.linear_model import LogisticRegression

from serve_app.components.pickles import pickle_estimator, unpickle
from serve_app.errors import ComponentsError

PATH = Path("some.pkl")


@pytest.fixture
def model() -> LogisticRegression:
    return LogisticRegression().fit([[0.0], [1.0]], [0, 1])


def test_an_estimator_survives_its_pickle(model: LogisticRegression) -> None:
    assert np.array_equal(unpickle(PATH, pickle_estimator(model)).coef_, model.coef_)


def test_a_plain_pickle_is_read_too(model: LogisticRegression) -> None:
    assert np.array_equal(unpickle(PATH, pickle.dumps(model)).coef_, model.coef_)


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps([1])[:-2]])
def test_what_is_not_a_pickle_is_refused_by_its_file(content: bytes) -> None:
    with pytest.raises(ComponentsError, match=r"^some\.pkl: cannot be unpickled: \w+: "):
        unpickle(PATH, content)


def test_an_estimator_of_another_version_is_refused(model: LogisticRegression) -> None:
    content = io.BytesIO()
    pickle.dump(model, content)
    other = content.getvalue().replace(sklearn.__version__.encode(), b"0.0.1"[: len(sklearn.__version__)])
    with pytest.raises(ComponentsError, match="InconsistentVersionWarning"):
        unpickle(PATH, other)
