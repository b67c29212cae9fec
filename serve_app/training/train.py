"""From a table of any columns to a draft of components, and a report on how good the model is.

Owns the order of the steps: read and split, choose the method, fit, choose the threshold, measure. The held-back rows are
scored once, at the end, and influence nothing. How each step works is the business of the module that it is named after
(training_data, method_choice, methods, threshold, figures). Knows no particular table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from serve_app.components.golden_rows import GOLDEN_ROWS, GOLDEN_TOLERANCE, predict_proba
from serve_app.components.manifest import Draft, Manifest
from serve_app.errors import SettingsError
from serve_app.scoring.arrays import Array
from serve_app.scoring.cells import excerpt
from serve_app.scoring.distribution import describe, scores_of
from serve_app.scoring.schema import Column, UnknownPolicy, selected_columns
from serve_app.training.coefficients import coefficients
from serve_app.training.column_kinds import Correction
from serve_app.training.csv_tables import CsvOptions
from serve_app.training.decompression import uncompressed
from serve_app.training.figures import measure
from serve_app.training.leaks import leaking_columns
from serve_app.training.method_choice import Choice, choose_method, fit_rows
from serve_app.training.methods import Calibration, FitOptions, Fitted, Method
from serve_app.training.results import Evidence, TrainingReport
from serve_app.training.tables import is_null
from serve_app.training.threshold import ThresholdRule, choose_threshold
from serve_app.training.training_data import TableChoices, TrainingData, read_training_data
from serve_app.training.verdict import judge

__all__ = ["train"]

_DEFAULT_FOLDS = 5  # where some are needed, and none were asked for


def train(  # noqa: PLR0913 - one keyword for each of the user's choices
    path: Path,
    *,
    target: str,
    method: Method | Literal["auto"] = "auto",
    positive: str | None = None,
    calibration: Calibration | None = None,
    name: str | None = None,
    version: str = "1.0.0",
    selected: int = 25,
    threshold: float | ThresholdRule = 0.5,
    unknown: UnknownPolicy = "as_null",
    corrections: Mapping[str, Correction] | None = None,
    null_tokens: Sequence[str] = (),
    csv: CsvOptions | None = None,
    folds: int = 0,
    seed: int = 26,
) -> tuple[Draft, TrainingReport]:
    """Fits a model to four rows in five of the table at ``path``; the others are held back and measured once, at the end.

    ``target``, ``positive``, ``unknown``, ``corrections``, ``null_tokens`` and ``csv`` are those of TableChoices, ``selected``,
    ``calibration`` and ``seed`` those of FitOptions. ``method`` is one of methods.py, or ``auto`` for the one of ``logit`` and
    ``trees`` with the lower cross-validated log loss. Without a ``name`` the model is named after the file. ``threshold`` may
    be a rule that chooses one. ``folds`` are those of the cross-validation, 0 for none; ``auto`` and a rule need some and make
    5.

    Raises:
        TableError: the table cannot be read or trained on; names the row and column.
        SettingsError: one of the choices is invalid.
    """
    rule = _checked_rule(threshold, method, calibration, selected)
    choices = TableChoices(target, positive, unknown, corrections or {}, null_tokens, csv or CsvOptions())
    data = read_training_data(path, choices, seed)
    if rule.rule != "fixed" and not data.target.is_binary:
        raise SettingsError(f"a threshold is chosen for two classes; {excerpt(target)} has {len(data.target.classes)}")
    if method == "auto" or rule.rule != "fixed":
        folds = max(folds, 2) if folds else _DEFAULT_FOLDS
    options = FitOptions(seed, selected, calibration)
    choice = choose_method(data, method, options, folds)
    model = fit_rows(data, choice.method, data.split.fitted, options)
    chosen = rule.threshold
    if choice.out_of_fold is not None:
        chosen = choose_threshold(rule, data.fitted_codes == 1, choice.out_of_fold.probabilities[:, 1])
    result = _Result(data, choice, model, rule, chosen, model.score(data.values))
    report = _report(result, options)
    manifest = _manifest(result, report, name=name, version=version, target=target)
    return Draft(manifest, model.imputer, model.scaler, model.model, _golden_rows(result)), report


@dataclass(frozen=True)
class _Result:
    """A model and what it was made of; ``probabilities`` of all rows have shape (rows, classes)."""

    data: TrainingData
    choice: Choice
    model: Fitted
    rule: ThresholdRule
    threshold: float
    probabilities: Array

    @property
    def used(self) -> tuple[Column, ...]:
        """The columns that the model uses."""
        return selected_columns(self.data.schema, self.model.features)


def _checked_rule(
    threshold: float | ThresholdRule, method: Method | Literal["auto"], calibration: Calibration | None, selected: int
) -> ThresholdRule:
    if selected < 1:
        raise SettingsError(f"a model of {selected} features cannot be trained")
    if calibration is not None and method == "two-stage":
        raise SettingsError("two-stage is the exercise's recipe, which does not calibrate; choose another method")
    try:
        return threshold if isinstance(threshold, ThresholdRule) else ThresholdRule(threshold=threshold)
    except ValueError as error:
        raise SettingsError(str(error)) from error


def _report(result: _Result, options: FitOptions) -> TrainingReport:
    data, choice, model = result.data, result.choice, result.model
    fitted, held_back = data.split
    codes, names, shares = data.target.codes, data.target.class_names, data.fitted_shares
    values, probabilities = data.values[fitted], result.probabilities[held_back]
    found, errors = coefficients(choice.method, model, values, result.probabilities[fitted])
    of_held_back = measure(codes[held_back], probabilities, result.threshold, shares)
    nulls = np.isnan(data.fitted_values(result.used)).mean(axis=0)
    folds = choice.out_of_fold
    return TrainingReport(
        method=choice.method,
        calibration=options.calibration,
        verdict=judge(of_held_back, codes[held_back], probabilities, shares),
        candidates=choice.candidates,
        rows_without_target=data.rows_without_target,
        train=measure(codes[fitted], result.probabilities[fitted], result.threshold, shares),
        held_back=of_held_back,
        class_shares=dict(zip(names, shares.tolist(), strict=True)),
        threshold_rule=result.rule,
        cross_validation=None if folds is None else folds.measure(codes[fitted], result.threshold, shares),
        coefficients=found,
        standard_errors=errors,
        null_shares=dict(zip([column.name for column in result.used], nulls.tolist(), strict=True)),
        left_out=data.inferred.left_out,
        leaks=leaking_columns([column.name for column in data.schema.columns], values, codes[fitted], options.seed),
        evidence=Evidence(data.schema, names, data.values, codes, fitted, held_back, probabilities, model.score),
    )


def _manifest(result: _Result, report: TrainingReport, *, name: str | None, version: str, target: str) -> Manifest:
    data, model = result.data, result.model
    # The scores of the held-back rows, because a model is too confident on the rows that it was fitted to.
    scores = scores_of(result.probabilities[data.split.held_back])
    matrix = model.encoder.encode(data.values[data.split.fitted])
    try:
        manifest = Manifest(
            name=_label(data.table.path) if name is None else name,
            version=version,
            target=target,
            classes=data.target.classes,
            threshold=result.threshold,
            schema=data.schema,
            features=model.features,
            selected_features=tuple(column.name for column in result.used),
            training=report.as_json(),
            distribution=describe(result.used, data.fitted_values(result.used), scores),
        )
    except ValueError as error:
        raise SettingsError(str(error)) from error
    if model.is_raw:
        return msgspec.structs.replace(manifest, encoding="raw")
    return msgspec.structs.replace(manifest, feature_means=tuple(matrix.mean(axis=0).tolist()))


def _golden_rows(result: _Result) -> list[dict[str, str | None]]:
    """Fitted rows as clients would send them; up to half of them have a null in a column that the model uses."""
    data, used = result.data, result.used
    columns = data.table.columns
    refused = [column.name for column in data.schema.columns if column.null == "reject"]
    fitted = data.split.fitted
    may_have_null = fitted[np.isnan(data.fitted_values(used)).any(axis=1)].tolist()

    def without_refused(rows: Sequence[int]) -> Iterator[int]:
        return (row for row in rows if not any(is_null(columns[name][row]) for name in refused))

    with_null = (row for row in without_refused(may_have_null) if any(is_null(columns[one.name][row]) for one in used))
    chosen = [*islice(with_null, GOLDEN_ROWS // 2), *islice(without_refused(fitted.tolist()), 10 * GOLDEN_ROWS)]
    names = [column.name for column in data.schema.columns]
    return [data.table.row(row, names) for row in _reproducible(result, list(dict.fromkeys(chosen)))[:GOLDEN_ROWS]]


def _reproducible(result: _Result, rows: Sequence[int]) -> list[int]:
    """The rows to which scikit-learn and the compiled model give the same probabilities with room to spare.

    On a steep step of an isotonic calibration, the last bit of a score makes a difference that proves nothing.
    """
    model, values = result.model, result.data.values[list(rows)]
    own = predict_proba(model.model, (), model.encoder.encode(values))
    differences = np.abs(own - model.score(values)).max(axis=1)
    return [row for row, difference in zip(rows, differences, strict=True) if difference < GOLDEN_TOLERANCE / 10]


def _label(path: Path) -> str:
    """A file's name, without its suffixes, as the name of a model, which must be fit for an HTTP header."""
    stem = uncompressed(path).stem
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", stem).lstrip("._+-")[:64] or "model"
