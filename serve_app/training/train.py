"""From a table of any columns to a draft of components, and a report on how good the model is.

Owns the order of the steps: read, split, infer the columns, fit, cross-validate, choose the threshold, measure. The held-back
rows are scored once, at the end, and influence nothing. How each step works is the business of the module that it is named
after (tables, folds, column_kinds, methods, threshold, figures). Knows no particular table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from serve_app.components.manifest import Draft, Manifest
from serve_app.errors import SettingsError
from serve_app.scoring import drift
from serve_app.scoring.arrays import Array
from serve_app.scoring.cells import excerpt
from serve_app.scoring.schema import Column, Feature, Schema, UnknownPolicy, selected_columns
from serve_app.training.column_kinds import Correction, Inferred, infer_schema
from serve_app.training.figures import measure
from serve_app.training.folds import OutOfFold, Split, cross_predict, split_rows
from serve_app.training.leaks import leaking_columns
from serve_app.training.methods import METHODS, Fitted, Method, UnfitTableError
from serve_app.training.results import Evidence, TrainingReport
from serve_app.training.tables import Table, is_null, read_column, read_table
from serve_app.training.target import Target, read_target
from serve_app.training.threshold import ThresholdRule, choose_threshold

__all__ = ["train"]

_GOLDEN_ROWS = 20
_DEFAULT_FOLDS = 5  # for a threshold rule that needs folds when none were asked for


def train(  # noqa: PLR0913 - one keyword for each of the user's choices
    path: Path,
    *,
    target: str,
    method: Method = "two-stage",
    name: str | None = None,
    version: str = "1.0.0",
    selected: int = 25,
    threshold: float | ThresholdRule = 0.5,
    unknown: UnknownPolicy = "as_null",
    corrections: Mapping[str, Correction] | None = None,
    folds: int = 0,
    seed: int = 26,
) -> tuple[Draft, TrainingReport]:
    """Fits a model to four rows in five of the table at ``path``; the others are held back and measured once, at the end.

    Args:
        path: the table; see tables.py for the formats.
        target: the column to predict; see target.py.
        method: see methods.py.
        name: of the model; derived from the file's name if None.
        version: of the model.
        selected: the most features that ``two-stage`` selects.
        threshold: a threshold, or the rule that chooses one, for two classes only.
        unknown: what a category does that the training rows do not have.
        corrections: what the user says about columns, by name.
        folds: of the cross-validation; 0 for none. A rule that chooses a threshold needs some and makes 5 if there are none.
        seed: of everything random.

    Raises:
        TableError: the table cannot be read or trained on; names the row and column.
        SettingsError: the name, version, threshold, a correction or ``selected`` is invalid.
    """
    if selected < 1:
        raise SettingsError(f"a model of {selected} features cannot be trained")
    rule = _threshold_rule(threshold)
    data = _read(path, target, unknown, corrections, seed)
    if rule.rule != "fixed" and not data.target.is_binary:
        raise SettingsError(f"a threshold is chosen for two classes; {excerpt(target)} has {len(data.target.classes)}")
    if rule.rule != "fixed":
        folds = max(folds, 2) if folds else _DEFAULT_FOLDS

    def fit(rows: NDArray[np.intp]) -> Fitted:
        try:
            return METHODS[method](data.schema, data.values[rows], data.target.labels[rows], seed, selected)
        except UnfitTableError as error:
            raise data.table.error(str(error)) from None

    fitted = data.split.fitted
    model = fit(fitted)
    codes = data.target.codes[fitted]
    out_of_fold = cross_predict(lambda rows: fit(fitted[rows]), data.values[fitted], codes, folds, seed) if folds else None
    chosen = rule.threshold
    if out_of_fold is not None:
        chosen = choose_threshold(rule, codes == 1, out_of_fold.probabilities[:, 1])
    probabilities = model.score(data.values)
    report = _report(data, method, model, probabilities, out_of_fold, rule, chosen, seed)
    manifest = _manifest(data, model, probabilities, report, name=name, version=version, target=target, threshold=chosen)
    golden_rows = _golden_rows(data, manifest.selected_features)
    return Draft(manifest, model.imputer, model.scaler, model.model, golden_rows), report


@dataclass(frozen=True)
class _Data:
    """A table that is ready to fit models to; ``values`` has shape (rows, columns of the schema)."""

    table: Table
    target: Target
    split: Split
    inferred: Inferred
    values: Array

    @property
    def schema(self) -> Schema:
        return self.inferred.schema


def _read(path: Path, target: str, unknown: UnknownPolicy, corrections: Mapping[str, Correction] | None, seed: int) -> _Data:
    table = read_table(path)
    classes = read_target(table, target)
    split = split_rows(classes.codes, seed)
    inferred = infer_schema(table, target, split.fitted.tolist(), unknown=unknown, corrections=corrections)
    values = np.column_stack([read_column(table, column) for column in inferred.schema.columns])
    return _Data(table, classes, split, inferred, values)


def _threshold_rule(threshold: float | ThresholdRule) -> ThresholdRule:
    try:
        return threshold if isinstance(threshold, ThresholdRule) else ThresholdRule(threshold=threshold)
    except ValueError as error:
        raise SettingsError(str(error)) from error


def _report(  # noqa: PLR0913, PLR0917 - everything that training found
    data: _Data,
    method: Method,
    model: Fitted,
    probabilities: Array,
    out_of_fold: OutOfFold | None,
    rule: ThresholdRule,
    threshold: float,
    seed: int,
) -> TrainingReport:
    fitted, held_back = data.split
    codes, names = data.target.codes, data.target.class_names
    values = data.values[fitted]
    coefficients, errors = _coefficients(method, model, values, probabilities[fitted])
    shares = np.bincount(codes[fitted], minlength=len(names)) / len(fitted)
    used = selected_columns(data.schema, model.features)
    nulls = np.isnan(_columns(data.schema, used, values)).mean(axis=0)
    return TrainingReport(
        method=method,
        train=measure(codes[fitted], probabilities[fitted], threshold),
        held_back=measure(codes[held_back], probabilities[held_back], threshold),
        class_shares=dict(zip(names, shares.tolist(), strict=True)),
        threshold_rule=rule,
        cross_validation=None if out_of_fold is None else out_of_fold.measure(codes[fitted], threshold),
        coefficients=coefficients,
        standard_errors=errors,
        null_shares=dict(zip([column.name for column in used], nulls.tolist(), strict=True)),
        left_out=data.inferred.left_out,
        leaks=leaking_columns([column.name for column in data.schema.columns], values, codes[fitted], seed),
        evidence=Evidence(data.schema, names, data.values, codes, fitted, held_back, probabilities[held_back], model.score),
    )


def _manifest(  # noqa: PLR0913 - what a manifest says
    data: _Data,
    model: Fitted,
    probabilities: Array,
    report: TrainingReport,
    *,
    name: str | None,
    version: str,
    target: str,
    threshold: float,
) -> Manifest:
    fitted, held_back = data.split
    used = selected_columns(data.schema, model.features)
    values = _columns(data.schema, used, data.values[fitted])
    # The scores of the held-back rows, because a model is too confident on the rows that it was fitted to.
    scores = drift.scores_of(probabilities[held_back])
    try:
        manifest = Manifest(
            name=_label(data.table.path.stem) if name is None else name,
            version=version,
            target=target,
            classes=data.target.classes,
            threshold=threshold,
            schema=data.schema,
            features=model.features,
            selected_features=tuple(column.name for column in used),
            training=report.as_json(),
            distribution=drift.describe(used, values, scores),
        )
    except ValueError as error:
        raise SettingsError(str(error)) from error
    return msgspec.structs.replace(manifest, encoding="raw") if model.is_raw else manifest


def _columns(schema: Schema, used: Sequence[Column], values: Array) -> Array:
    """The values of some of the schema's columns."""
    return values[:, [schema.columns.index(column) for column in used]]


def _coefficients(
    method: Method, model: Fitted, values: Array, probabilities: Array
) -> tuple[dict[str, float], dict[str, float]]:
    """Coefficients and standard errors by feature, for a logit of two classes."""
    if method == "trees" or probabilities.shape[1] > 2:
        return {}, {}
    coefficients = _by_name(model.features, model.model.coef_[0])
    if method != "two-stage":
        return coefficients, {}
    return coefficients, _by_name(model.features, _standard_errors(model.encoder.encode(values), probabilities[:, 1]))


def _standard_errors(matrix: Array, probabilities: Array) -> Array:
    """Roots of the diagonal of (X'WX)⁻¹, W = p (1 - p): the inverse Hessian of the coefficients' log-likelihood."""
    hessian = matrix.T @ (matrix * (probabilities * (1 - probabilities))[:, np.newaxis])
    eigenvalues = np.linalg.eigvalsh(hessian)
    if eigenvalues[0] <= eigenvalues[-1] * len(hessian) * np.finfo(np.float64).eps:
        return np.full(len(hessian), np.inf)
    return np.sqrt(np.diag(np.linalg.inv(hessian)))


def _by_name(features: Sequence[Feature], figures: Array) -> dict[str, float]:
    return {feature.name: float(figure) for feature, figure in zip(features, figures, strict=True)}


def _golden_rows(data: _Data, used: Sequence[str]) -> list[dict[str, str | None]]:
    """Fitted rows as clients would send them; up to half of them have a null in a column that the model uses."""
    columns = data.table.columns
    refused = [column.name for column in data.schema.columns if column.null == "reject"]
    rows = [row for row in data.split.fitted.tolist() if not any(is_null(columns[name][row]) for name in refused)]
    with_null = [row for row in rows if any(is_null(columns[name][row]) for name in used)]
    chosen = list(dict.fromkeys([*with_null[: _GOLDEN_ROWS // 2], *rows]))[:_GOLDEN_ROWS]
    names = [column.name for column in data.schema.columns]
    return [data.table.row(row, names) for row in chosen]


def _label(stem: str) -> str:
    """A file's name as the name of a model, which must be fit for an HTTP header."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", stem).lstrip("._+-")[:64] or "model"
