"""``manifest.json``: what it says about a model, and a draft of it together with the fitted estimators.

Owns the names of the files and the rules that a manifest must follow by itself. Reads and writes no file, and does not compare
the manifest with the estimators.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from serve_app.scoring.distribution import Distribution
from serve_app.scoring.schema import Column, Feature, Schema, selected_columns

__all__ = [
    "ESTIMATORS",
    "FILES",
    "FORMAT",
    "LIBRARIES",
    "MANIFEST",
    "Cell",
    "Draft",
    "GoldenRow",
    "Manifest",
    "in_selected_order",
    "library_versions",
]

FORMAT = 1
MANIFEST = "manifest.json"

ESTIMATORS = ("imputer", "scaler", "model")
FILES = frozenset(f"{part}.pkl" for part in ESTIMATORS)
LIBRARIES = ("scikit-learn", "numpy", "scipy", "joblib")
"""The libraries whose versions a pickle depends on."""

Cell = str | int | float | bool | None
"""What a client may send in a field that the model uses."""

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", re.ASCII)  # fit for an HTTP header


class GoldenRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row as a client would send it, and the probabilities that scikit-learn gave it when the components were saved."""

    row: dict[str, Cell]
    probabilities: tuple[float, ...]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``manifest.json``. ``libraries``, ``files`` and ``golden`` are filled in when components are saved.

    ``encoding`` says how the model gets numbers: standardised, with missing ones imputed, or raw, with NaN for missing ones. A
    raw feature without a level may belong to a categorical column; then it is the position of the level. ``training`` holds
    figures for people, whatever the training method found worth keeping. ``distribution`` is what drift is measured against.
    ``feature_means``, over the training rows, are what a linear model's reasons are measured from.
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
                raise ValueError("name and version must be 1 to 64 letters, digits and ._+- characters")
        if len(self.classes) < 2 or len(set(map(str, self.classes))) != len(self.classes):
            raise ValueError("a classifier needs two or more different classes")
        if not 0.0 <= self.threshold <= 1.0:
            raise ValueError("the threshold must be between 0 and 1")
        try:
            used = {column.name for column in selected_columns(self.schema, self.features)}
        except KeyError as error:
            raise ValueError(f"a feature uses the column {error}, which is not in the schema") from error
        if self.feature_means is not msgspec.UNSET and len(self.feature_means) != len(self.features):
            raise ValueError("feature_means must have one mean for each feature")
        if used != set(self.selected_features) or len(used) != len(self.selected_features):
            raise ValueError("selected_features must be the columns that the features use")

    @property
    def is_raw(self) -> bool:
        """Whether the model gets raw numbers."""
        return self.encoding == "raw"

    @property
    def estimators(self) -> tuple[str, ...]:
        """Which of ``ESTIMATORS`` the components have."""
        return ESTIMATORS if self.schema.numeric and not self.is_raw else ("model",)


@dataclass(frozen=True)
class Draft:
    """Fitted estimators and their manifest, ready for ``save_components``.

    The imputer and the scaler were fitted on ``manifest.schema.numeric``, in that order, or are None if
    ``manifest.estimators`` lacks them; the model was fitted on ``manifest.features``. ``golden_rows`` are rows as clients send
    them; they are scored when the components are saved.
    """

    manifest: Manifest
    imputer: Any
    scaler: Any
    model: Any
    golden_rows: Sequence[Mapping[str, Cell]]


def library_versions() -> dict[str, str]:
    """The installed versions of Python and of ``LIBRARIES``."""
    versions = {library: importlib.metadata.version(library) for library in LIBRARIES}
    return {"python": ".".join(platform.python_version_tuple()[:2]), **versions}


def in_selected_order(manifest: Manifest) -> tuple[Column, ...]:
    """The columns that the model uses, in the order of ``selected_features``."""
    return tuple(manifest.schema.column(name) for name in manifest.selected_features)
