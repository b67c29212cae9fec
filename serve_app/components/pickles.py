"""Estimators as pickles, written and read by joblib.

Owns the warning that comes with every pickle: reading one executes it. What to trust is decided before, by ``loading`` for
components and by the user for an estimator of their own.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

from serve_app.errors import ComponentsError

__all__ = ["pickle_estimator", "unpickle"]


def pickle_estimator(estimator: Any) -> bytes:
    """The pickle of a fitted estimator."""
    import joblib

    buffer = io.BytesIO()
    joblib.dump(estimator, buffer)
    return buffer.getvalue()


def unpickle(path: Path, content: bytes) -> Any:
    """The object in a pickle that was read from ``path``.

    Raises:
        ComponentsError: it cannot be unpickled, or was made by another version of scikit-learn.
    """
    import joblib
    from sklearn.exceptions import InconsistentVersionWarning

    try:
        with warnings.catch_warnings(action="error", category=InconsistentVersionWarning):
            return joblib.load(io.BytesIO(content))
    except Exception as error:  # unpickling runs the code that the pickle names, which may raise anything
        raise ComponentsError(str(path), f"cannot be unpickled: {type(error).__name__}: {error}") from error
