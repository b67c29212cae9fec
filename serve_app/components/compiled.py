"""Fitted estimators compiled for serving: a feature encoder and a scorer.

Owns the comparison of the estimators with the manifest. Reads no file and does not verify that the compiled scorer is right:
that is the business of ``loading``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from serve_app.components.golden_rows import golden_arrays
from serve_app.components.manifest import Draft, Manifest, in_selected_order
from serve_app.errors import ComponentsError
from serve_app.scoring.arrays import Array
from serve_app.scoring.features import FeatureEncoder, NumericFit
from serve_app.scoring.rows import RowParser
from serve_app.scoring.schema import Column
from serve_app.scoring.scorers import Scorer, compile_scorer

__all__ = ["Components", "compile_components", "compile_draft", "numeric_fits"]

_RAW_MAX_MAGNITUDE = 1e38  # trees compare numbers in single precision


@dataclass(frozen=True)
class Components:
    """Components compiled for serving.

    ``digest`` is the SHA-256 of the manifest, which contains the digests of the files, so it identifies all of them.
    """

    manifest: Manifest
    digest: str
    encoder: FeatureEncoder
    scorer: Scorer
    model: Any
    """The fitted estimator itself; explanations need it."""

    @property
    def version_label(self) -> str:
        """The version and the first eight digits of the digest, as in ``1.0.0+ab12cd34``: different models never share one.

        The digits are build metadata of semantic versioning (https://semver.org, item 10), added to that of the version itself.
        """
        version = self.manifest.version
        return f"{version}{'.' if '+' in version else '+'}{self.digest[:8]}"

    def parser(self, max_rows: int, **limits: int) -> RowParser:
        """A parser of rows for these components; ``limits`` are further limits of RowParser."""
        max_magnitude = _RAW_MAX_MAGNITUDE if self.manifest.is_raw else self.encoder.max_magnitude
        return RowParser(self.encoder.columns, max_magnitude=max_magnitude, max_rows=max_rows, **limits)

    def score(self, values: Array) -> Array:
        """Probabilities of shape (rows, classes) for a values array of shape (rows, selected columns)."""
        return self.scorer.score(self.encoder.encode(values))

    @property
    def feature_means(self) -> Array | None:
        """The mean of each feature over the training rows, shape (features,); None if the manifest does not hold them."""
        means = self.manifest.feature_means
        return None if means is msgspec.UNSET else np.array(means)

    def golden_values(self) -> tuple[Array, Array]:
        """The golden rows as a values array of shape (rows, selected columns), and their probabilities."""
        return golden_arrays(self.parser(max_rows=len(self.manifest.golden)), self.manifest.golden)


def compile_draft(draft: Draft) -> Components:
    """A draft as it would score once it is saved; its digest is empty.

    Raises:
        ComponentsError: the estimators do not fit the manifest.
    """
    return compile_components(draft.manifest, "", draft.imputer, draft.scaler, draft.model)


def numeric_fits(numeric: Sequence[Column], imputer: Any, scaler: Any) -> dict[str, NumericFit]:
    """What an imputer and a scaler have learned about the columns that they were fitted on, by name."""
    learned = zip(numeric, imputer.statistics_, scaler.mean_, scaler.scale_, strict=True)
    return {
        column.name: NumericFit(imputed=float(imputed), mean=float(mean), scale=float(scale))
        for column, imputed, mean, scale in learned
    }


def compile_components(manifest: Manifest, digest: str, imputer: Any, scaler: Any, model: Any) -> Components:
    """Compiles estimators to a feature encoder and a scorer.

    Raises:
        ComponentsError: they were fitted on other columns or classes than those in the manifest.
    """
    numeric = [column.name for column in manifest.schema.numeric]
    names = [feature.name for feature in manifest.features]
    for part, estimator, expected in (("imputer", imputer, numeric), ("scaler", scaler, numeric), ("model", model, names)):
        if part not in manifest.estimators:
            continue
        fitted_on = getattr(estimator, "feature_names_in_", None) if manifest.is_raw else estimator.feature_names_in_
        if len(expected) != estimator.n_features_in_ or (fitted_on is not None and list(fitted_on) != expected):
            raise ComponentsError(f"{part}.pkl", "was fitted on other columns than those in the manifest")
    if [str(label) for label in model.classes_] != [str(label) for label in manifest.classes]:
        raise ComponentsError("model.pkl", "was fitted on other classes than those in the manifest")
    columns = in_selected_order(manifest)
    if manifest.is_raw:
        fits = {column.name: NumericFit(imputed=np.nan, mean=0.0, scale=1.0) for column in columns}
        are_raw_columns = [feature.name for feature in manifest.features] == [column.name for column in columns]
        scorer = compile_scorer(model, columns if are_raw_columns else ())
    else:
        fits = numeric_fits(manifest.schema.numeric, imputer, scaler) if numeric else {}
        scorer = compile_scorer(model)
    return Components(manifest, digest, FeatureEncoder(columns, manifest.features, fits), scorer, model)
