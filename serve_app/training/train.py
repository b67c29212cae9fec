"""From a table of any columns to fitted components, and how well they do.

Owns the order of things: which rows are fitted on and which are never touched before the end, the cross-validation on the
former, the choice of the threshold, the figures, the golden rows. How a table is read is tables.py's business, how a model is
fitted methods.py's, what a figure is evaluation.py's. Knows no particular table.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from serve_app.components.golden_rows import choose_golden_rows
from serve_app.components.manifest import Draft, Manifest
from serve_app.errors import SettingsError
from serve_app.scoring.arrays import Array
from serve_app.scoring.cells import excerpt
from serve_app.scoring.distribution import describe, scores_of
from serve_app.scoring.schema import Feature, Schema, UnknownPolicy, selected_columns
from serve_app.training.column_kinds import Correction, infer_schema
from serve_app.training.evaluation import ThresholdRule, choose_threshold, leaking_columns, measure
from serve_app.training.methods import METHODS, Fitted, Method, UnfitTableError
from serve_app.training.results import FIGURES, CrossValidation, Evidence, TrainingReport
from serve_app.training.tables import Table, is_null, read_column, read_table

__all__ = ["Array", "train"]

_VALIDATION_SHARE = 0.2
_MIN_ROWS_PER_CLASS = 5  # so that one of them is held back
_MAX_CLASSES = 100
_DEFAULT_FOLDS = 5  # where a rule for the threshold needs some, and none were asked for
_INTEGER = re.compile(r"[+-]?\d{1,15}", re.ASCII)


@dataclass(frozen=True)
class _Target:
    """The classes, the positive one of two last, and the position of each row's."""

    classes: tuple[int, ...] | tuple[str, ...]
    rows: NDArray[np.intp]


def train(  # noqa: PLR0913 - one keyword for each choice that a user has
    path: Path,
    *,
    target: str,
    method: Method | None = None,
    name: str | None = None,
    version: str = "1.0.0",
    selected: int = 25,
    threshold: float | ThresholdRule = 0.5,
    unknown: UnknownPolicy = "as_null",
    corrections: Mapping[str, Correction] | None = None,
    folds: int = 0,
    seed: int = 26,
) -> tuple[Draft, TrainingReport]:
    """Fits a model to the table at ``path``, on four rows in five; the others are held back, and measured once, at the end.

    ``target`` is a column of 2 to 100 different values; of two, the last by number or the alphabet is the positive class.
    ``method`` is the two-stage logit when left out. ``selected`` is the most features that it selects. Without a ``name`` the
    model has that of the file. ``folds`` are those of the cross-validation, 0 for none; a rule for the threshold is applied to
    the probabilities that come out of it, so it takes place then in any case.

    Raises:
        TableError: the table cannot be read or trained on; says in which row and column.
        SettingsError: the name, the version, the threshold, a correction or ``selected`` cannot be one.
    """
    if selected < 1:
        raise SettingsError(f"a model of {selected} features cannot be trained")
    rule = _threshold_rule(threshold)
    chosen: Method = method or "two-stage"
    table = read_table(path)
    known = _read_target(table, target)
    if rule.rule != "fixed" and len(known.classes) > 2:
        raise SettingsError(f"a threshold is chosen for two classes; {excerpt(target)} has {len(known.classes)}")
    fitted, held_back = _split(known.rows, seed)
    inferred = infer_schema(table, target, fitted.tolist(), unknown=unknown, corrections=corrections)
    schema = inferred.schema
    values = np.column_stack([read_column(table, column) for column in schema.columns])
    labels = np.array(known.classes)[known.rows]

    def fit(rows: NDArray[np.intp]) -> Fitted:
        try:
            return METHODS[chosen](schema, values[rows], labels[rows], seed, selected)
        except UnfitTableError as error:
            raise table.error(str(error)) from None

    model = fit(fitted)
    if rule.rule != "fixed":
        folds = max(folds, 2) if folds else _DEFAULT_FOLDS
    out_of_fold = _cross_predict(fit, values, known.rows, fitted, folds, seed) if folds else None
    value_of_threshold = rule.threshold
    if out_of_fold is not None:
        value_of_threshold = choose_threshold(rule, known.rows[fitted] == 1, out_of_fold.probabilities[:, 1])
    probabilities = model.score(values)
    parts = {"train": fitted, "validation": held_back}
    figures: dict[str, Any] = {
        f"{part}_{figure}": value
        for part, rows in parts.items()
        for figure, value in measure(known.rows[rows], probabilities[rows], value_of_threshold).items()
    }
    is_binary = len(known.classes) == 2
    positive_shares: dict[str, Any] = {
        f"{part}_positive_share": float((known.rows[rows] == 1).mean()) if is_binary else None for part, rows in parts.items()
    }
    coefficients, errors = _coefficients(chosen, model, values[fitted], probabilities[fitted])
    used = selected_columns(schema, model.features)
    values_used = values[fitted][:, [schema.columns.index(column) for column in used]]
    names = [column.name for column in used]
    class_names = [str(label) for label in known.classes]
    report = TrainingReport(
        method=chosen,
        train_rows=len(fitted),
        validation_rows=len(held_back),
        class_shares=dict(zip(class_names, _shares(known.rows[fitted], len(class_names)), strict=True)),
        **positive_shares,
        **figures,
        threshold_rule=rule,
        cross_validation=None if out_of_fold is None else out_of_fold.measure(known.rows[fitted], value_of_threshold),
        coefficients=coefficients,
        standard_errors=errors,
        null_shares=dict(zip(names, np.isnan(values_used).mean(axis=0).tolist(), strict=True)),
        left_out=inferred.left_out,
        leaks=leaking_columns([column.name for column in schema.columns], values[fitted], known.rows[fitted], seed),
        evidence=Evidence(schema, class_names, values, known.rows, fitted, held_back, probabilities[held_back], model.score),
    )
    # Of the score as it is on rows that the model does not know: on those that it was fitted on it is surer of itself.
    scores = scores_of(probabilities[held_back])
    try:
        manifest = Manifest(
            name=_label(path.stem) if name is None else name,
            version=version,
            target=target,
            classes=known.classes,
            threshold=value_of_threshold,
            schema=schema,
            features=model.features,
            selected_features=tuple(names),
            training=report.as_json(),
            distribution=describe(used, values_used, scores),
        )
    except ValueError as error:
        raise SettingsError(str(error)) from error
    if model.is_raw:
        manifest = msgspec.structs.replace(manifest, encoding="raw")
    return Draft(manifest, model.imputer, model.scaler, model.model, _golden_rows(table, schema, names, fitted)), report


def _threshold_rule(threshold: float | ThresholdRule) -> ThresholdRule:
    try:
        return threshold if isinstance(threshold, ThresholdRule) else ThresholdRule(threshold=threshold)
    except ValueError as error:
        raise SettingsError(str(error)) from error


def _read_target(table: Table, target: str) -> _Target:
    if target not in table.columns:
        raise table.error(f"there is no column {excerpt(target)}")
    cells = [cell.strip() for cell in table.columns[target]]
    if "" in cells:
        raise table.cell_error(cells.index(""), target, "the target is empty")
    rows_of = Counter(cells)
    if not 2 <= len(rows_of) <= _MAX_CLASSES:
        raise table.error(f"the target {excerpt(target)} has {len(rows_of)} different values; it must have 2 to {_MAX_CLASSES}")
    rarest = min(rows_of, key=rows_of.__getitem__)
    if rows_of[rarest] < _MIN_ROWS_PER_CLASS:
        reason = f"{_MIN_ROWS_PER_CLASS} rows of a class are the least"
        raise table.error(f"too few rows are {excerpt(rarest)}: {rows_of[rarest]}; {reason}")
    names = sorted(rows_of)
    if all(_INTEGER.fullmatch(cell) for cell in names) and len({int(cell) for cell in names}) == len(names):
        numbers = sorted(int(cell) for cell in names)
        return _Target(tuple(numbers), np.searchsorted(numbers, [int(cell) for cell in cells]))
    position = {cell: index for index, cell in enumerate(names)}
    return _Target(tuple(names), np.array([position[cell] for cell in cells]))


def _split(classes: NDArray[Any], seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows to fit on and rows to hold back, each in the table's order and with the table's share of each class."""
    from sklearn.model_selection import train_test_split

    fitted, held_back = train_test_split(
        np.arange(len(classes)), test_size=_VALIDATION_SHARE, random_state=seed, stratify=classes
    )
    return np.sort(fitted), np.sort(held_back)


@dataclass(frozen=True)
class _OutOfFold:
    """Of each row that is fitted on, the probabilities by a model that was not fitted on it, and the number of its fold."""

    probabilities: Array
    fold: NDArray[np.intp]

    def measure(self, classes: NDArray[np.intp], threshold: float) -> CrossValidation:
        folds = int(self.fold.max()) + 1
        figures = [
            measure(classes[self.fold == number], self.probabilities[self.fold == number], threshold) for number in range(folds)
        ]
        by_name = {name: np.array([figure[name] for figure in figures]) for name in FIGURES}
        return CrossValidation(
            folds,
            {name: float(found.mean()) for name, found in by_name.items()},
            {name: float(found.std(ddof=1)) for name, found in by_name.items()},
        )


def _cross_predict(  # noqa: PLR0913, PLR0917 - all of it is what a fold is
    fit: Callable[[NDArray[np.intp]], Fitted],
    values: Array,
    classes: NDArray[np.intp],
    fitted: NDArray[np.intp],
    folds: int,
    seed: int,
) -> _OutOfFold:
    from sklearn.model_selection import StratifiedKFold

    folds = min(folds, int(np.bincount(classes[fitted]).min()))  # each fold has a row of each class
    probabilities = np.empty((len(fitted), int(classes.max()) + 1))
    number_of = np.empty(len(fitted), dtype=np.intp)
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed).split(fitted, classes[fitted])
    for number, (others, fold) in enumerate(splits):
        probabilities[fold] = fit(fitted[others]).score(values[fitted[fold]])
        number_of[fold] = number
    return _OutOfFold(probabilities, number_of)


def _coefficients(
    method: Method, model: Fitted, values: Array, probabilities: Array
) -> tuple[dict[str, float], dict[str, float]]:
    """Coefficients and standard errors by feature, of a logit of two classes."""
    if method == "trees" or probabilities.shape[1] > 2:
        return {}, {}
    coefficients = _by_name(model.features, model.model.coef_[0])
    if method != "two-stage":
        return coefficients, {}
    return coefficients, _by_name(model.features, _standard_errors(model.encoder.encode(values), probabilities[:, 1]))


def _shares(classes: NDArray[np.intp], count: int) -> list[float]:
    shares: list[float] = (np.bincount(classes, minlength=count) / len(classes)).tolist()
    return shares


def _standard_errors(matrix: Array, probabilities: Array) -> Array:
    """Roots of the diagonal of (X'WX)⁻¹, W = p (1 - p): the inverse Hessian of the coefficients' log-likelihood."""
    hessian = matrix.T @ (matrix * (probabilities * (1 - probabilities))[:, np.newaxis])
    eigenvalues = np.linalg.eigvalsh(hessian)
    if eigenvalues[0] <= eigenvalues[-1] * len(hessian) * np.finfo(np.float64).eps:
        return np.full(len(hessian), np.inf)
    return np.sqrt(np.diag(np.linalg.inv(hessian)))


def _by_name(features: Sequence[Feature], figures: Array) -> dict[str, float]:
    return {feature.name: float(figure) for feature, figure in zip(features, figures, strict=True)}


def _golden_rows(table: Table, schema: Schema, used: Sequence[str], fitted: NDArray[np.intp]) -> list[dict[str, str | None]]:
    """Rows as clients would send them; in half of them, if there are as many, something is null that the model uses."""
    refused = [column.name for column in schema.columns if column.null == "reject"]
    rows = [row for row in fitted.tolist() if not any(is_null(table.columns[name][row]) for name in refused)]
    with_null = [row for row in rows if any(is_null(table.columns[name][row]) for name in used)]
    names = [column.name for column in schema.columns]
    return [table.row(row, names) for row in choose_golden_rows(rows, with_null)]


def _label(stem: str) -> str:
    """A file's name as the name of a model, which must be fit for an HTTP header."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", stem).lstrip("._+-")[:64] or "model"
