"""The published model of the exercise (GLM model 26) as a draft of components, without training.

Owns data/reference/glm26.json: the means, standard deviations and coefficients with the digits that they were published with.
Only this room knows that model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from serve_app.components.golden_rows import GOLDEN_ROWS
from serve_app.components.manifest import Draft, Manifest
from serve_app.config import PROJECT_ROOT
from serve_app.scoring.schema import Column, Feature, Kind, Schema, UnknownPolicy

__all__ = ["REFERENCE_FILE", "PublishedModel", "draft_reference", "load_published_model"]

REFERENCE_FILE = PROJECT_ROOT / "data" / "reference" / "glm26.json"
_GOLDEN_SEED = 26


class _Moments(msgspec.Struct, frozen=True):
    mean: float
    std: float


class _Example(msgspec.Struct, frozen=True):
    request: list[dict[str, Any]]
    published_response: list[dict[str, Any]]
    probability_by_the_published_coefficients: float


class _Bins(msgspec.Struct, frozen=True):
    edges: list[float]
    rows_per_bin: int
    positives: list[int]


class PublishedModel(msgspec.Struct, frozen=True):
    """The published figures; data/reference/README.md gives the meaning and the source of each one."""

    target: str
    threshold: float
    columns: list[str]
    money_columns: list[str]
    percent_columns: list[str]
    categorical: dict[str, list[str]]
    numeric: dict[str, _Moments]
    coefficients: dict[str, float]
    coefficient_standard_errors: dict[str, float]
    published_auc: dict[str, float]
    published_probability_bins: _Bins
    example: _Example

    def schema(self, unknown: UnknownPolicy = "as_null") -> Schema:
        """The columns of the published table, in order, without the target."""
        return Schema(tuple(self._column(name, unknown) for name in self.columns))

    def features(self) -> tuple[Feature, ...]:
        """The features of the published coefficients, in the order of their publication."""
        by_name = {feature.name: feature for feature in self.schema().all_features()}
        return tuple(by_name[name] for name in self.coefficients)

    def _column(self, name: str, unknown: UnknownPolicy) -> Column:
        if name in self.categorical:
            return Column(name, "categorical", levels=tuple(self.categorical[name]), unknown=unknown)
        kind: Kind = "money" if name in self.money_columns else "percent" if name in self.percent_columns else "numeric"
        return Column(name, kind)


def load_published_model(path: Path = REFERENCE_FILE) -> PublishedModel:
    """Reads the published figures."""
    return msgspec.json.decode(path.read_bytes(), type=PublishedModel)


def draft_reference(published: PublishedModel, unknown: UnknownPolicy = "as_null") -> Draft:
    """The published figures as fitted estimators.

    The estimators are fitted to two rows that span the published moments, and then get the published figures. This makes them
    complete scikit-learn objects without guessing at their private attributes.
    """
    import pandas as pd
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    schema = published.schema(unknown)
    features = published.features()
    means = np.array([published.numeric[column.name].mean for column in schema.numeric])
    stds = np.array([published.numeric[column.name].std for column in schema.numeric])
    two_rows = pd.DataFrame([means - stds, means + stds], columns=[column.name for column in schema.numeric])

    imputer = SimpleImputer(strategy="mean").fit(two_rows)
    imputer.statistics_ = means.copy()
    scaler = StandardScaler().fit(two_rows)
    scaler.mean_, scaler.scale_, scaler.var_ = means.copy(), stds.copy(), stds**2
    names = [feature.name for feature in features]
    corners = pd.DataFrame([[-1.0] * len(names), [1.0] * len(names)], columns=names)
    model = LogisticRegression(C=np.inf, fit_intercept=False).fit(corners, [0, 1])
    model.coef_ = np.array([[published.coefficients[name] for name in names]])

    bins = published.published_probability_bins
    manifest = Manifest(
        name="glm-26",
        version="1.0.0",
        target=published.target,
        classes=(0, 1),
        threshold=published.threshold,
        schema=schema,
        features=features,
        selected_features=tuple(published.example.published_response[0]["selected_features"]),
        training={
            "source": "published coefficients, not fitted here",
            "positive_share": {"train": sum(bins.positives) / (len(bins.positives) * bins.rows_per_bin)},
            "auc": published.published_auc,
            "coefficients": published.coefficients,
            "standard_errors": published.coefficient_standard_errors,
        },
    )
    return Draft(manifest, imputer, scaler, model, golden_rows=[published.example.request[0], *_golden_rows(published)])


def _golden_rows(published: PublishedModel) -> list[dict[str, Any]]:
    """Rows over the whole range of each column; some cells are null, and some amounts are strings in brackets."""
    random = np.random.default_rng(_GOLDEN_SEED)
    rows = []
    for number in range(GOLDEN_ROWS):
        row: dict[str, Any] = {}
        for name in published.columns:
            if name in published.categorical:
                row[name] = str(random.choice(published.categorical[name]))
            else:
                moments = published.numeric[name]
                value = round(float(random.normal(moments.mean, 2 * moments.std)), 6)
                row[name] = f"(${-value:,.2f})" if name in published.money_columns and value < 0 else value
            if random.random() < 0.05 * (number % 4):
                row[name] = None
        rows.append(row)
    return rows
