"""A fitted estimator of scikit-learn that a user brings, as a draft of components.

Owns how a pickle and a sample of the rows that it was fitted on become a schema, and the proof that the service will answer
what the estimator itself does. Unpickling runs whatever the file says, so whoever calls this trusts the file.

The estimator takes the raw columns of a table: a Pipeline that imputes and encodes, or an estimator of numbers. What a category
may be is told by the sample. A column whose missing values (or unknown categories) the estimator refuses is refused as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from serve_app.components.golden_rows import choose_golden_rows
from serve_app.components.manifest import Draft, Manifest
from serve_app.components.pickles import unpickle
from serve_app.errors import ComponentsError, SettingsError, TableError
from serve_app.scoring.arrays import Array
from serve_app.scoring.cells import excerpt
from serve_app.scoring.distribution import describe, scores_of
from serve_app.scoring.schema import Column, Feature, Schema
from serve_app.scoring.sklearn_scorers import EstimatorScorer
from serve_app.training.column_kinds import Inferred, infer_schema
from serve_app.training.tables import Table, is_null, read_column, read_table

__all__ = ["import_estimator"]

_COMPARED_ROWS = 1000
_TOLERANCE = 1e-12


def import_estimator(  # noqa: PLR0913 - one keyword for each choice that a user has
    path: Path, sample: Path, *, target: str, name: str | None = None, version: str = "1.0.0", threshold: float = 0.5
) -> Draft:
    """The estimator in a pickle, made by joblib or pickle, as a draft.

    Args:
        path: the pickle, which is executed.
        sample: a table of the columns that the estimator was fitted on, in their order, with the target or without.
        target: what the estimator predicts.
        name: of the model; that of the file when left out.
        version: of the model.
        threshold: of two classes.

    Raises:
        ComponentsError: it cannot be unpickled, is no fitted classifier with ``predict_proba``, or answers otherwise when it is
            served than by itself.
        TableError: the sample lacks a column, or cannot be read.
        SettingsError: the name, the version or the threshold cannot be one.
    """
    estimator = _read_estimator(path)
    table = _only_what_is_used(read_table(sample), estimator, target)
    rows = len(next(iter(table.columns.values())))
    # Each level counts, also a rare one: what to make of it is the estimator's business.
    inferred = infer_schema(table, target, range(rows), unknown="reject", corrections=None)
    columns = _tell_what_is_refused(estimator, _complete(table, inferred))
    schema = Schema(columns)
    values = np.column_stack([read_column(table, column) for column in columns])
    good = ~(np.isnan(values) & np.array([column.null == "reject" for column in columns])).any(axis=1)
    if not good.any():
        raise table.error("holds no row that the estimator can score")
    probabilities = EstimatorScorer(estimator, columns).score(values[good])
    _compare_with_pandas(path, estimator, sample, columns, good, probabilities)
    classes = tuple(label.item() if isinstance(label, np.generic) else label for label in estimator.classes_)
    try:
        manifest = Manifest(
            name=path.stem if name is None else name,
            version=version,
            target=target,
            classes=classes,
            threshold=threshold,
            schema=schema,
            features=tuple(Feature(column.name) for column in columns),
            selected_features=tuple(column.name for column in columns),
            encoding="raw",
            training={"method": f"imported: {type(estimator).__name__}", "sample_rows": rows},
            distribution=describe(columns, values[good], scores_of(probabilities)),
        )
    except ValueError as error:
        raise SettingsError(str(error)) from error
    with_null = good & np.isnan(values).any(axis=1)
    golden = choose_golden_rows(np.flatnonzero(good).tolist(), np.flatnonzero(with_null).tolist())
    return Draft(manifest, None, None, estimator, [table.row(row, manifest.selected_features) for row in golden])


def _read_estimator(path: Path) -> Any:
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        content = path.read_bytes()
    except OSError as error:
        raise ComponentsError(str(path), f"cannot be read: {error.strerror or error}") from error
    estimator = unpickle(path, content)
    if not hasattr(estimator, "predict_proba"):
        raise ComponentsError(str(path), f"a {type(estimator).__name__} gives no probabilities (predict_proba)")
    try:
        check_is_fitted(estimator)
    except (NotFittedError, TypeError) as error:
        raise ComponentsError(str(path), f"is no fitted estimator: {error}") from error
    return estimator


def _only_what_is_used(table: Table, estimator: Any, target: str) -> Table:
    names = getattr(estimator, "feature_names_in_", None)
    if names is None:
        names = [name for name in table.columns if name != target]
        if len(names) != estimator.n_features_in_:
            raise table.error(f"has {len(names)} columns; the estimator was fitted on {estimator.n_features_in_}")
    for name in names:
        if name not in table.columns:
            raise table.error(f"has no column {excerpt(str(name))}, which the estimator was fitted on")
    return Table(table.path, {str(name): table.columns[str(name)] for name in names}, table.first_row)


def _complete(table: Table, inferred: Inferred) -> list[Column]:
    """All columns in order: one that says nothing here is a number if it can be, and an identifier is what it looks like."""
    by_name = {column.name: column for column in inferred.schema.columns}
    columns = []
    for name, cells in table.columns.items():
        column = by_name.get(name)
        if column is None:
            known = sorted({cell for cell in cells if not is_null(cell)})
            column = Column(name, "numeric")
            try:
                read_column(table, column)
            except TableError:
                column = Column(name, "categorical", levels=tuple(known), unknown="reject")
        columns.append(column)
    return columns


def _tell_what_is_refused(estimator: Any, columns: Sequence[Column]) -> tuple[Column, ...]:
    """The same columns with the policies that the estimator follows, found by asking it."""
    told = []
    row = np.zeros((1, len(columns)))
    for index, column in enumerate(columns):
        cell = row.copy()
        cell[0, index] = np.nan
        accepts = _scores(estimator, columns, cell)
        told.append(
            msgspec.structs.replace(
                column,
                null="impute" if accepts else "reject",
                unknown="as_null" if accepts or not column.is_categorical else "reject",
            )
        )
    return tuple(told)


def _scores(estimator: Any, columns: Sequence[Column], values: Array) -> bool:
    try:
        return bool(np.isfinite(EstimatorScorer(estimator, columns).score(values)).all())
    except (ValueError, TypeError):
        return False


def _compare_with_pandas(  # noqa: PLR0913, PLR0917 - what is compared, and of what
    path: Path, estimator: Any, sample: Path, columns: Sequence[Column], good: NDArray[np.bool_], probabilities: Array
) -> None:
    """The first rows of the sample as pandas reads them, scored by the estimator as its owner would."""
    import pandas as pd

    readers: dict[str, Callable[[Path], Any]] = {
        ".parquet": pd.read_parquet,
        ".json": pd.read_json,
        ".jsonl": _read_lines,
        ".ndjson": _read_lines,
    }
    raw = readers.get(sample.suffix.lower(), pd.read_csv)(sample)
    frame = raw[[column.name for column in columns]][good][:_COMPARED_ROWS]
    takes_names = getattr(estimator, "feature_names_in_", None) is not None
    try:
        expected = np.asarray(estimator.predict_proba(frame if takes_names else frame.to_numpy()))
    except (TypeError, ValueError) as error:
        raise ComponentsError(str(path), f"cannot score {sample} as pandas reads it: {error}") from error
    difference = float(np.abs(expected - probabilities[:_COMPARED_ROWS]).max())
    if not difference <= _TOLERANCE:
        reason = f"answers differ by {difference:.3g} between {sample} as pandas reads it and as the service does"
        raise ComponentsError(str(path), reason)


def _read_lines(path: Path) -> Any:
    import pandas as pd

    return pd.read_json(path, lines=True)
