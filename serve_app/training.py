"""From a table to fitted components: the exercise's two-stage logit, on a CSV file of any columns.

Owns how a table is read, what its columns are taken for, and the method: impute by the mean, standardise, one-hot with
the first level as the baseline, an L1 logit that selects the strongest features, an unpenalised logit on those. Cells
are read by the same grammars, and features made by the same encoder, as those of a request. Knows no particular table.

The rows that the model is fitted on tell what a column is; an empty cell is null in any column:

- It is left out if its cells say nothing (fewer than two different ones) or are text of more than 100 different values.
- It is numeric, money or percent if each of its cells is a number by that grammar; they are tried in this order.
- It is refused if nearly all of its cells are: more likely than not, the few others are mistakes.
- Otherwise it is categorical. Its levels are sorted, so that the first in the alphabet is the baseline.
"""

from __future__ import annotations

import csv
import math
import re
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from serve_app.components import Draft, Manifest
from serve_app.errors import SettingsError, TableError
from serve_app.features import FeatureEncoder, NumericFit
from serve_app.model import compile_scorer
from serve_app.schema import READERS, Column, Feature, Kind, Schema, UnknownPolicy, selected_columns
from serve_app.values import NotANumberError, excerpt

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["TrainingReport", "train"]

_VALIDATION_SHARE = 0.2
_MIN_ROWS = 20
_MIN_ROWS_PER_CLASS = 5  # so that one of them is held back
_MAX_LEVELS = 100
_MISTAKES_SHARE = 0.05
_MAX_MAGNITUDE = 1e100  # squared and summed over any table it still is a finite number
_GOLDEN_ROWS = 20
_NUMBER_KINDS: tuple[Kind, ...] = ("numeric", "money", "percent")
_INTEGER = re.compile(r"[+-]?\d{1,15}", re.ASCII)


@dataclass(frozen=True)
class TrainingReport:
    """How well the model does on the rows that it was fitted on, and on those that were held back.

    ``coefficients`` and ``standard_errors`` stand by feature, in the order of the selection, the strongest first; the
    errors are infinite where the rows do not determine the coefficients. ``null_shares`` are those of the columns that the
    model uses, among the rows that it was fitted on. ``left_out`` names the columns of no use.
    """

    train_rows: int
    validation_rows: int
    train_positive_share: float
    validation_positive_share: float
    train_auc: float
    validation_auc: float
    train_log_loss: float
    validation_log_loss: float
    coefficients: dict[str, float]
    standard_errors: dict[str, float]
    null_shares: dict[str, float]
    left_out: tuple[str, ...]

    @property
    def rows(self) -> int:
        """All rows of the table."""
        return self.train_rows + self.validation_rows

    def as_json(self) -> dict[str, Any]:
        """The same in values of JSON, as the manifest holds it."""
        figures = {
            figure: {part: getattr(self, f"{part}_{figure}") for part in ("train", "validation")}
            for figure in ("rows", "positive_share", "auc", "log_loss")
        }
        errors = {name: error if math.isfinite(error) else None for name, error in self.standard_errors.items()}
        return {
            **figures,
            "coefficients": self.coefficients,
            "standard_errors": errors,
            "null_shares": self.null_shares,
            "left_out": list(self.left_out),
        }


@dataclass(frozen=True)
class _Table:
    """A CSV file as text: the cells of each column, by name."""

    path: Path
    columns: Mapping[str, Sequence[str]]

    def error(self, reason: str) -> TableError:
        """Something is wrong with the table."""
        return TableError(f"{self.path}: {reason}")

    def cell_error(self, index: int, column: str, reason: str) -> TableError:
        """Something is wrong with one cell; its message counts rows as a spreadsheet does: the header is row 1."""
        return self.error(f"row {index + 2}, column {excerpt(column)}: {reason}")


@dataclass(frozen=True)
class _Target:
    """The two classes, the positive one last, and which rows are positive."""

    classes: tuple[int, int] | tuple[str, str]
    is_positive: NDArray[np.bool_]


def train(  # noqa: PLR0913 - one keyword for each choice that a user has
    path: Path,
    *,
    target: str,
    name: str | None = None,
    version: str = "1.0.0",
    selected: int = 25,
    threshold: float = 0.5,
    unknown: UnknownPolicy = "as_null",
    seed: int = 26,
) -> tuple[Draft, TrainingReport]:
    """Fits a model to the CSV table at ``path``, on four rows in five; the others are held back.

    ``target`` is a column of two different values; the last of them, by number or the alphabet, is the positive class.
    ``selected`` is the most features that the model may have. Without a ``name`` the model has that of the file.

    Raises:
        TableError: the table cannot be read or trained on; says in which row (the header is row 1) and column.
        SettingsError: the name, the version, the threshold or ``selected`` cannot be one.
    """
    if selected < 1:
        raise SettingsError(f"a model of {selected} features cannot be trained")
    table = _read_table(path)
    known = _read_target(table, target)
    fitted, held_back = _split(known.is_positive, seed)
    schema = _infer_schema(table, target, fitted, unknown)
    values = np.column_stack([_read_column(table, column) for column in schema.columns])

    imputer, scaler = _fit_preprocessing(schema, values[fitted])
    encoder = _all_features_encoder(schema, imputer, scaler)
    matrix = encoder.encode(values)
    strongest = _select_strongest(matrix[fitted], known.is_positive[fitted], seed)[:selected]
    features = [encoder.features[index] for index in strongest]
    _check_features(table, features)
    matrix = np.ascontiguousarray(matrix[:, strongest])
    model = _fit_logit(features, matrix[fitted], np.take(known.classes, known.is_positive[fitted]))

    probabilities = compile_scorer(model).score(matrix)[:, 1]
    used = tuple(column.name for column in selected_columns(schema, features))
    nulls = dict(zip((column.name for column in schema.columns), np.isnan(values[fitted]).mean(axis=0).tolist(), strict=True))
    report = TrainingReport(
        **_measure("train", known.is_positive[fitted], probabilities[fitted]),
        **_measure("validation", known.is_positive[held_back], probabilities[held_back]),
        coefficients=_by_name(features, model.coef_[0]),
        standard_errors=_by_name(features, _standard_errors(matrix[fitted], probabilities[fitted])),
        null_shares={name: nulls[name] for name in used},
        left_out=_left_out(table, target, schema),
    )
    try:
        manifest = Manifest(
            name=_label(path.stem) if name is None else name,
            version=version,
            target=target,
            classes=known.classes,
            threshold=threshold,
            schema=schema,
            features=tuple(features),
            selected_features=used,
            training=report.as_json(),
        )
    except ValueError as error:
        raise SettingsError(str(error)) from error
    return Draft(manifest, imputer, scaler, model, _golden_rows(table, schema, used, fitted)), report


def _read_table(path: Path) -> _Table:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = [line for line in csv.reader(file, strict=True) if line]
    except OSError as error:
        raise TableError(f"{path} cannot be read: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise TableError(f"{path} is no CSV file in UTF-8: {error}") from error
    if len(lines) <= _MIN_ROWS:
        raise TableError(f"{path} has too few rows to train on: {max(0, len(lines) - 1)}; {_MIN_ROWS} are the least")
    header, *rows = lines
    for name in header:
        if header.count(name) > 1:
            raise TableError(f"{path}: the column {excerpt(name)} stands twice in the header")
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise TableError(f"{path}: row {number} has {len(row)} cells, the header has {len(header)}")
    return _Table(path, dict(zip(header, zip(*rows, strict=True), strict=True)))


def _read_target(table: _Table, target: str) -> _Target:
    if target not in table.columns:
        raise table.error(f"there is no column {excerpt(target)}")
    cells = [cell.strip() for cell in table.columns[target]]
    if "" in cells:
        raise table.cell_error(cells.index(""), target, "the target is empty")
    rows_of = Counter(cells)
    if len(rows_of) != 2:
        raise table.error(f"the target {excerpt(target)} has {len(rows_of)} different values; it must have two")
    rarest = min(rows_of, key=rows_of.__getitem__)
    if rows_of[rarest] < _MIN_ROWS_PER_CLASS:
        reason = f"{_MIN_ROWS_PER_CLASS} rows of a class are the least"
        raise table.error(f"too few rows are {excerpt(rarest)}: {rows_of[rarest]}; {reason}")
    first, second = sorted(rows_of)
    if _INTEGER.fullmatch(first) and _INTEGER.fullmatch(second) and int(first) != int(second):
        low, high = sorted((int(first), int(second)))
        return _Target((low, high), np.array([int(cell) == high for cell in cells]))
    return _Target((first, second), np.array([cell == second for cell in cells]))


def _split(is_positive: NDArray[np.bool_], seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows to fit on and rows to hold back, each in the table's order and with the table's share of positives."""
    from sklearn.model_selection import train_test_split

    fitted, held_back = train_test_split(
        np.arange(len(is_positive)), test_size=_VALIDATION_SHARE, random_state=seed, stratify=is_positive
    )
    return np.sort(fitted), np.sort(held_back)


def _infer_schema(table: _Table, target: str, fitted: NDArray[np.intp], unknown: UnknownPolicy) -> Schema:
    rows = fitted.tolist()
    columns = []
    for name, cells in table.columns.items():
        different = dict.fromkeys(cells[row] for row in rows if not _is_null(cells[row]))
        if name != target and len(different) > 1:
            columns.append(_infer_column(table, name, different, unknown))
    schema = Schema(tuple(column for column in columns if column is not None))
    if not schema.numeric:
        raise table.error("no column besides the target holds different numbers")
    return schema


def _infer_column(table: _Table, name: str, cells: Collection[str], unknown: UnknownPolicy) -> Column | None:
    """What a column of these different cells is; None if it has too many levels to be anything."""
    for kind in _NUMBER_KINDS:
        mistakes = [cell for cell in cells if not _is_number(kind, cell)]
        if not mistakes:
            return Column(name, kind)
        if len(mistakes) <= _MISTAKES_SHARE * len(cells):
            reason = f"{excerpt(mistakes[0])} is not a number, as nearly all of the column's other cells are"
            raise table.cell_error(table.columns[name].index(mistakes[0]), name, reason)
    if len(cells) > _MAX_LEVELS:
        return None
    return Column(name, "categorical", levels=tuple(sorted(cells)), unknown=unknown)


def _is_null(cell: str) -> bool:
    return not cell.strip()


def _is_number(kind: Kind, cell: str) -> bool:
    try:
        READERS[kind](cell)
    except NotANumberError:
        return False
    return True


def _read_column(table: _Table, column: Column) -> NDArray[np.float64]:
    """The cells of one column as features.py takes them; a level that only rows held back have is unknown: missing."""
    cells = table.columns[column.name]
    if column.is_categorical:
        codes = {level: float(code) for code, level in enumerate(column.levels)}
        return np.array([codes.get(cell, math.nan) for cell in cells])
    read = READERS[column.kind]
    values = []
    for index, cell in enumerate(cells):
        try:
            value = math.nan if _is_null(cell) else read(cell)
        except NotANumberError as error:
            raise table.cell_error(index, column.name, str(error)) from None
        if abs(value) > _MAX_MAGNITUDE:
            raise table.cell_error(index, column.name, f"{excerpt(cell)} is too large to train on")
        values.append(value)
    return np.array(values)


def _fit_preprocessing(schema: Schema, values: NDArray[np.float64]) -> tuple[Any, Any]:
    """The imputer and the scaler of all numeric columns."""
    import pandas as pd
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import StandardScaler

    numbers = pd.DataFrame(values, columns=[column.name for column in schema.columns])
    numbers = numbers[[column.name for column in schema.numeric]]
    imputer = SimpleImputer(strategy="mean").fit(numbers)
    scaler = StandardScaler().fit(pd.DataFrame(imputer.transform(numbers), columns=numbers.columns))
    return imputer, scaler


def _all_features_encoder(schema: Schema, imputer: Any, scaler: Any) -> FeatureEncoder:
    """Makes every feature that the table offers, the way that serving makes the selected ones."""
    learned = zip(schema.numeric, imputer.statistics_, scaler.mean_, scaler.scale_, strict=True)
    fits = {
        column.name: NumericFit(imputed=float(imputed), mean=float(mean), scale=float(scale))
        for column, imputed, mean, scale in learned
    }
    return FeatureEncoder(schema.columns, schema.all_features(), fits)


def _select_strongest(matrix: NDArray[np.float64], is_positive: NDArray[np.bool_], seed: int) -> list[int]:
    """Positions of the features that an L1 logit gives a coefficient to, the largest first."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    logit = LogisticRegression(l1_ratio=1.0, solver="liblinear", fit_intercept=False, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a rank, not a figure, is asked for
        strength = np.abs(logit.fit(matrix, is_positive).coef_[0])
    order = np.argsort(-strength, kind="stable")
    return [int(index) for index in order if strength[index] > 0]


def _check_features(table: _Table, features: Sequence[Feature]) -> None:
    if not features:
        raise table.error("no column tells the classes apart")
    by_name: dict[str, Feature] = {}
    for feature in features:
        other = by_name.setdefault(feature.name, feature)
        if other != feature:
            columns = f"{excerpt(other.column)} and {excerpt(feature.column)}"
            raise table.error(f"the columns {columns} both make a feature {excerpt(feature.name)}; rename one")


def _fit_logit(features: Sequence[Feature], matrix: NDArray[np.float64], labels: NDArray[Any]) -> Any:
    """A logit without penalty and intercept, to the last digits that the rows determine."""
    import pandas as pd
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    logit = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=1000)
    with warnings.catch_warnings():
        # Where the features separate the classes no coefficient is large enough; the standard errors tell.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return logit.fit(pd.DataFrame(matrix, columns=[feature.name for feature in features]), labels)


def _standard_errors(matrix: NDArray[np.float64], probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Roots of the diagonal of (X'WX)⁻¹, W = p (1 - p): the inverse Hessian of the coefficients' log-likelihood."""
    hessian = matrix.T @ (matrix * (probabilities * (1 - probabilities))[:, np.newaxis])
    eigenvalues = np.linalg.eigvalsh(hessian)
    if eigenvalues[0] <= eigenvalues[-1] * len(hessian) * np.finfo(np.float64).eps:
        return np.full(len(hessian), np.inf)
    return np.sqrt(np.diag(np.linalg.inv(hessian)))


def _measure(part: str, is_positive: NDArray[np.bool_], probabilities: NDArray[np.float64]) -> dict[str, Any]:
    """The report's figures of one part of the rows."""
    from sklearn.metrics import log_loss, roc_auc_score

    return {
        f"{part}_rows": len(is_positive),
        f"{part}_positive_share": float(is_positive.mean()),
        f"{part}_auc": float(roc_auc_score(is_positive, probabilities)),
        f"{part}_log_loss": float(log_loss(is_positive, probabilities)),
    }


def _left_out(table: _Table, target: str, schema: Schema) -> tuple[str, ...]:
    kept = {target, *(column.name for column in schema.columns)}
    return tuple(name for name in table.columns if name not in kept)


def _by_name(features: Sequence[Feature], figures: NDArray[np.float64]) -> dict[str, float]:
    return {feature.name: float(figure) for feature, figure in zip(features, figures, strict=True)}


def _golden_rows(table: _Table, schema: Schema, used: Sequence[str], fitted: NDArray[np.intp]) -> list[dict[str, str | None]]:
    """Rows as clients would send them; in half of them, if there are as many, something is null that the model uses."""
    rows = fitted.tolist()
    with_null = [row for row in rows if any(_is_null(table.columns[name][row]) for name in used)]
    chosen = list(dict.fromkeys([*with_null[: _GOLDEN_ROWS // 2], *rows]))[:_GOLDEN_ROWS]
    return [
        {
            column.name: None if _is_null(table.columns[column.name][row]) else table.columns[column.name][row]
            for column in schema.columns
        }
        for row in chosen
    ]


def _label(stem: str) -> str:
    """A file's name as the name of a model, which must be fit for an HTTP header."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", stem).lstrip("._+-")[:64] or "model"
