"""``manifest.json``: what it says of a model, and a draft of it with the fitted estimators."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from serve_app.scoring.drift import Distribution
from serve_app.scoring.schema import Column, Feature, Schema, selected_columns

__all__ = ["FILES", "FORMAT", "MANIFEST", "Draft", "GoldenRow", "Manifest", "in_selected_order", "library_versions"]

FORMAT = 1
MANIFEST = "manifest.json"
ESTIMATORS = ("imputer", "scaler", "model")
FILES = frozenset(f"{part}.pkl" for part in ESTIMATORS)
LIBRARIES = ("scikit-learn", "numpy", "scipy", "joblib")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", re.ASCII)  # fit for an HTTP header


class GoldenRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row as a client would send it, and the probability of each class that scikit-learn gave it when it was saved."""

    row: dict[str, Any]
    probabilities: tuple[float, ...]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``manifest.json``. ``libraries`` and ``files`` are filled in when components are saved.

    ``encoding`` says what the model gets of a number: standardised, with the mean in the place of a missing one, or raw, with
    NaN. A raw feature without a level may be of a categorical column, too: the position of its level. ``distribution`` is what
    drift is told from. ``feature_means``, over the training rows, are what a linear model's reasons are measured from.
    """

    format: int = FORMAT
    name: str
    version: str
    target: str
    classes: tuple[int | float | str | bool, ...]
    threshold: float
    schema: Schema
    features: tuple[Feature, ...]
    selected_features: tuple[str, ...]
    encoding: Literal["standardised", "raw"] | msgspec.UnsetType = msgspec.UNSET  # unset: standardised
    libraries: dict[str, str] = {}
    files: dict[str, str] = {}
    training: dict[str, Any] = {}
    distribution: Distribution | msgspec.UnsetType = msgspec.UNSET
    feature_means: tuple[float, ...] | msgspec.UnsetType = msgspec.UNSET
    golden: tuple[GoldenRow, ...] = ()

    def __post_init__(self) -> None:
        for label in (self.name, self.version):
            if _LABEL.fullmatch(label) is None:
                raise ValueError("name and version are at most 64 letters, digits and ._+-")
        if len(self.classes) < 2 or len(set(map(str, self.classes))) != len(self.classes):
            raise ValueError("a classifier has two or more different classes")
        if not 0.0 <= self.threshold <= 1.0:
            raise ValueError("the threshold is a probability")
        try:
            used = {column.name for column in selected_columns(self.schema, self.features)}
        except KeyError as error:
            raise ValueError(f"a feature is made of the column {error}, which the schema does not have") from error
        if self.feature_means is not msgspec.UNSET and len(self.feature_means) != len(self.features):
            raise ValueError("there is not one mean for each feature")
        if used != set(self.selected_features) or len(used) != len(self.selected_features):
            raise ValueError("selected_features are not the columns that the features are made of")

    @property
    def is_raw(self) -> bool:
        """Whether the model gets numbers as they are."""
        return self.encoding == "raw"

    @property
    def estimators(self) -> tuple[str, ...]:
        """Which of imputer, scaler and model there are."""
        return ESTIMATORS if self.schema.numeric and not self.is_raw else ("model",)


@dataclass(frozen=True)
class Draft:
    """Fitted estimators with what the manifest must say of them: what ``save_components`` takes.

    The imputer and the scaler were fitted on ``manifest.schema.numeric``, in that order, or are None where the manifest has
    none of them; the model on ``manifest.features``. ``golden_rows`` are rows as clients send them, scored when saved.
    """

    manifest: Manifest
    imputer: Any
    scaler: Any
    model: Any
    golden_rows: Sequence[Mapping[str, Any]]


def library_versions() -> dict[str, str]:
    """The installed version of Python and of each library whose pickles depend on it."""
    versions = {library: importlib.metadata.version(library) for library in LIBRARIES}
    return {"python": ".".join(platform.python_version_tuple()[:2]), **versions}


def in_selected_order(manifest: Manifest) -> tuple[Column, ...]:
    """The columns that the model uses, in the order of ``selected_features``."""
    return tuple(manifest.schema.column(name) for name in manifest.selected_features)
