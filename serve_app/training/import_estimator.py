"""An estimator of scikit-learn that a user has fitted, as a draft of components.

Owns how a pickle and a sample of the rows that it was fitted on become a schema, and the proof that the service will answer
exactly what the estimator answers. Unpickling runs whatever the file says, so the caller must trust it.

The estimator gets the raw columns of a table: it is a Pipeline that imputes and encodes, or an estimator of numbers. The sample
defines the levels of each category. Missing values, and unknown categories, are refused where the estimator refuses them.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
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
from serve_app.training.csv_tables import CsvOptions, decode_csv
from serve_app.training.decompression import read_decompressed, uncompressed
from serve_app.training.nulls import PANDAS_NULL_TOKENS, blank_nulls
from serve_app.training.tables import Table, is_null, read_column, read_table

__all__ = ["import_estimator"]

_COMPARED_ROWS = 1000
_TOLERANCE = 1e-12


def import_estimator(  # noqa: PLR0913 - one keyword for each of the user's choices
    path: Path, sample: Path, *, target: str, name: str | None = None, version: str = "1.0.0", threshold: float = 0.5
) -> Draft:
    """The estimator in a pickle, as a draft.

    Args:
        path: a pickle made by joblib or pickle; it is executed.
        sample: a table with the columns that the estimator was fitted on, in their order, with or without the target.
        target: what the estimator predicts.
        name: of the model; the file's name if None.
        version: of the model.
        threshold: of two classes.

    Raises:
        ComponentsError: the file cannot be unpickled, is not a fitted classifier with ``predict_proba``, or would be served
            with other answers than its own.
        TableError: the sample lacks a column, or cannot be read.
        SettingsError: the name, the version or the threshold is invalid.
    """
    estimator = _read_estimator(path)
    table = _only_what_is_used(read_table(sample), estimator, target)
    rows = len(next(iter(table.columns.values())))
    # Rare levels are kept: the estimator decides what to do with them.
    inferred = infer_schema(table, target, range(rows), unknown="reject", null_tokens=PANDAS_NULL_TOKENS)
    columns = _with_policies(estimator, _complete(table, inferred))
    values, good = _read_values(table, columns)
    probabilities = EstimatorScorer(estimator, columns).score(values[good])
    _compare_with_pandas(path, estimator, sample, columns, good, probabilities)
    names = [column.name for column in columns]
    try:
        manifest = Manifest(
            name=path.stem if name is None else name,
            version=version,
            target=target,
            classes=tuple(np.asarray(estimator.classes_).tolist()),
            threshold=threshold,
            schema=Schema(columns),
            features=tuple(map(Feature, names)),
            selected_features=tuple(names),
            encoding="raw",
            training={"method": f"imported: {type(estimator).__name__}", "sample_rows": rows},
            distribution=describe(columns, values[good], scores_of(probabilities)),
            feature_means=_feature_means(columns, values[good]),
        )
    except ValueError as error:
        raise SettingsError(str(error)) from error
    with_null = good & np.isnan(values).any(axis=1)
    golden = choose_golden_rows(np.flatnonzero(good).tolist(), np.flatnonzero(with_null).tolist())
    return Draft(manifest, None, None, estimator, [table.row(row, names) for row in golden])


def _read_values(table: Table, columns: Sequence[Column]) -> tuple[Array, NDArray[np.bool_]]:
    """The values of all rows, shape (rows, columns), and which rows the estimator can score, shape (rows,)."""
    values = np.column_stack([read_column(table, column) for column in columns])
    good = ~(np.isnan(values) & np.array([column.null == "reject" for column in columns])).any(axis=1)
    if not good.any():
        raise table.error("the estimator can score none of its rows")
    return values, good


def _feature_means(columns: Sequence[Column], values: Array) -> tuple[float, ...] | msgspec.UnsetType:
    """The mean of each number, for the reasons of a linear model; unset if there are categories, or nothing to average."""
    if any(column.is_categorical for column in columns) or np.isnan(values).all(axis=0).any():
        return msgspec.UNSET
    means: list[float] = np.nanmean(values, axis=0).tolist()
    return tuple(means)


def _read_estimator(path: Path) -> Any:
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        content = path.read_bytes()
    except OSError as error:
        raise ComponentsError(str(path), f"cannot be read: {error.strerror or error}") from error
    estimator = unpickle(path, content)
    if not hasattr(estimator, "predict_proba"):
        raise ComponentsError(str(path), f"a {type(estimator).__name__} has no predict_proba, and so gives no probabilities")
    try:
        check_is_fitted(estimator)
    except (NotFittedError, TypeError) as error:
        raise ComponentsError(str(path), f"is not a fitted estimator: {error}") from error
    return estimator


def _only_what_is_used(table: Table, estimator: Any, target: str) -> Table:
    names = getattr(estimator, "feature_names_in_", None)
    if names is None:
        names = [name for name in table.columns if name != target]
        if len(names) != estimator.n_features_in_:
            raise table.error(f"it has {len(names)} columns; the estimator was fitted on {estimator.n_features_in_}")
    for name in map(str, names):
        if name in table.unreadable:
            raise table.error(table.unreadable[name])
        if name not in table.columns:
            raise table.error(f"it has no column {excerpt(name)}, which the estimator was fitted on")
    used = Table(table.path, {str(name): table.columns[str(name)] for name in names}, table.first_row)
    return blank_nulls(used, dict.fromkeys(used.columns, PANDAS_NULL_TOKENS))


def _complete(table: Table, inferred: Inferred) -> list[Column]:
    """Every column in order, including those that the rules would leave out: each of them is numeric or else categorical."""
    by_name = {column.name: column for column in inferred.schema.columns}
    columns = []
    for name, cells in table.columns.items():
        column = by_name.get(name)
        if column is None:
            known = sorted({cell for cell in cells if not is_null(cell)})
            column = Column(name, "numeric", null_tokens=PANDAS_NULL_TOKENS)
            try:
                read_column(table, column)
            except TableError:
                column = msgspec.structs.replace(column, kind="categorical", levels=tuple(known), unknown="reject")
        columns.append(column)
    return columns


def _with_policies(estimator: Any, columns: Sequence[Column]) -> tuple[Column, ...]:
    """The same columns with the policies that the estimator follows, found by scoring a row with one missing cell at a time."""
    found = []
    row = np.zeros((1, len(columns)))
    for index, column in enumerate(columns):
        cell = row.copy()
        cell[0, index] = np.nan
        accepts = _scores(estimator, columns, cell)
        found.append(
            msgspec.structs.replace(
                column,
                null="impute" if accepts else "reject",
                unknown="as_null" if accepts or not column.is_categorical else "reject",
            )
        )
    return tuple(found)


def _scores(estimator: Any, columns: Sequence[Column], values: Array) -> bool:
    try:
        return bool(np.isfinite(EstimatorScorer(estimator, columns).score(values)).all())
    except (ValueError, TypeError):
        return False


def _compare_with_pandas(  # noqa: PLR0913, PLR0917 - both sides of the comparison
    path: Path, estimator: Any, sample: Path, columns: Sequence[Column], good: NDArray[np.bool_], probabilities: Array
) -> None:
    """Compares the first rows, as pandas reads them and the estimator scores them, with what the service would answer."""
    frame = _read_by_pandas(sample)[[column.name for column in columns]][good][:_COMPARED_ROWS]
    knows_names = getattr(estimator, "feature_names_in_", None) is not None
    try:
        expected = np.asarray(estimator.predict_proba(frame if knows_names else frame.to_numpy()))
    except (TypeError, ValueError) as error:
        raise ComponentsError(str(path), f"cannot score {sample} as pandas reads it: {error}") from error
    difference = float(np.abs(expected - probabilities[:_COMPARED_ROWS]).max())
    if not difference <= _TOLERANCE:
        reason = f"its answers differ by {difference:.3g} when the service reads {sample} instead of pandas"
        raise ComponentsError(str(path), reason)


def _read_by_pandas(sample: Path) -> Any:
    """The sample as a DataFrame, by pandas' own rules; only compression, encoding and separator are told to it."""
    import pandas as pd

    content = read_decompressed(sample)
    suffix = uncompressed(sample).suffix.lower()
    if suffix == ".parquet":
        return pd.read_parquet(io.BytesIO(content))
    if suffix in {".json", ".jsonl", ".ndjson"}:
        return pd.read_json(io.BytesIO(content), lines=suffix != ".json")
    text, separator = decode_csv(content, CsvOptions())
    return pd.read_csv(io.StringIO(text), sep=separator)
