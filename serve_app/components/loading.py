"""Model components on disk: saving, verifying and loading ``model_components/``.

Owns the format and the only file I/O of the serving path. A folder of components holds

- ``imputer.pkl`` (SimpleImputer) and ``scaler.pkl`` (StandardScaler), fitted on all numeric columns of the table; where there
  are none, or the model takes its numbers as they are (``"encoding": "raw"``), these two are missing,
- ``model.pkl``: the fitted classifier on the selected features,
- ``manifest.json``: name, version, schema, features, threshold, library versions, a SHA-256 of each of the files above,
  training figures, and golden rows with the probabilities that they must get,
- ``manifest.json.sig``, where somebody has signed it: provenance.py.

Nothing is unpickled before its digest matches the manifest, and a model whose golden rows come out differently is refused.
Knows no HTTP, no Ray, no table and no particular model.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import io
import os
import platform
import re
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from serve_app.components.signature import SIGNATURE, Trust, check_manifest
from serve_app.config import Settings, resolve_path
from serve_app.errors import ComponentsError
from serve_app.scoring.drift import Distribution
from serve_app.scoring.features import FeatureEncoder, NumericFit
from serve_app.scoring.rows import RowParser
from serve_app.scoring.schema import Column, Feature, Schema, selected_columns
from serve_app.scoring.scorers import Scorer, compile_scorer, settle
from serve_app.scoring.sklearn_scorers import EstimatorScorer

__all__ = [
    "Components",
    "Draft",
    "GoldenRow",
    "Manifest",
    "compile_draft",
    "load_components",
    "load_served_components",
    "numeric_fits",
    "save_components",
    "trust_of",
    "verify_files",
]

FORMAT = 1
MANIFEST = "manifest.json"
ESTIMATORS = ("imputer", "scaler", "model")
FILES = frozenset(f"{part}.pkl" for part in ESTIMATORS)
_RAW_MAX_MAGNITUDE = 1e38  # trees see numbers in single precision
LIBRARIES = ("scikit-learn", "numpy", "scipy", "joblib")
GOLDEN_TOLERANCE = 1e-12
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", re.ASCII)  # fit for an HTTP header


class GoldenRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row as a client would send it, and the probability of each class that scikit-learn gave it when it was saved."""

    row: dict[str, Any]
    probabilities: tuple[float, ...]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``manifest.json``. ``libraries`` and ``files`` are filled in when components are saved.

    ``encoding`` says what the model gets of a number: standardised, with the mean in the place of a missing one, or raw, with
    NaN. A raw feature without a level may be of a categorical column, too: the position of its level. ``distribution`` is what
    drift is told from.
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


@dataclass(frozen=True)
class Components:
    """Verified components, compiled for serving.

    ``digest`` is the SHA-256 of the manifest, which holds those of the files: it stands for all of them.
    """

    manifest: Manifest
    digest: str
    encoder: FeatureEncoder
    scorer: Scorer
    model: Any
    """The fitted estimator itself, for whoever explains its answers."""

    def parser(self, max_rows: int, **limits: int) -> RowParser:
        """A reader of rows for these components; ``limits`` are the other ones of RowParser."""
        most = _RAW_MAX_MAGNITUDE if self.manifest.is_raw else self.encoder.max_magnitude
        return RowParser(self.encoder.columns, max_magnitude=most, max_rows=max_rows, **limits)

    def golden_values(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The golden rows as a values array, and their probabilities."""
        return _golden_arrays(self.parser(max_rows=len(self.manifest.golden)), self.manifest.golden)


def compile_draft(draft: Draft) -> Components:
    """A draft as it would score once saved, without a digest.

    Raises:
        ComponentsError: the estimators do not fit the manifest.
    """
    return _compile(draft.manifest, "", draft.imputer, draft.scaler, draft.model)


def load_served_components(settings: Settings) -> Components:
    """The components that the settings name, as far as the settings trust them; raises as ``load_components`` does."""
    return load_components(resolve_path(settings.components), trust_of(settings))


def trust_of(settings: Settings) -> Trust:
    """What the settings ask of the components that they name."""
    key = settings.components_public_key
    return Trust(settings.components_sha256, None if key is None else resolve_path(key))


def load_components(folder: Path, trust: Trust = Trust()) -> Components:  # noqa: B008 - it never changes
    """Verified, compiled components.

    In this order: the manifest is compared with what ``trust`` asks for; the digest of each file is compared with the
    manifest, before anything is unpickled; the versions of the libraries are compared with those that pickled; the golden rows
    are scored by the compiled scorer and by scikit-learn itself, and both must give the recorded probabilities to within 1e-12.

    Raises:
        ComponentsError: what is wrong, in one line.
    """
    manifest, digest, contents = _read_verified(folder, trust)
    estimators = {part: _unpickle(folder / f"{part}.pkl", contents[f"{part}.pkl"]) for part in manifest.estimators}
    try:
        components = _compile(manifest, digest, estimators.get("imputer"), estimators.get("scaler"), estimators["model"])
        matrix = components.encoder.encode(components.golden_values()[0])
        components = replace(components, scorer=settle(components.scorer, matrix))
        _check_golden_rows(folder, components)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ComponentsError(str(folder), f"the estimators do not fit the manifest: {error}") from error
    return components


def verify_files(folder: Path, trust: Trust = Trust()) -> str:  # noqa: B008 - it never changes
    """The part of ``load_components`` that takes milliseconds and runs no pickle: manifest, digests, versions.

    Gives the manifest's digest, by which the components are known.

    Raises:
        ComponentsError: what is wrong, in one line.
    """
    _, digest, _ = _read_verified(folder, trust)
    return digest


def save_components(folder: Path, draft: Draft) -> Components:
    """Writes components and returns them as loaded back; ``folder`` is replaced as a whole, or not at all.

    Raises:
        ComponentsError: ``folder`` holds something else, which is left alone, or the estimators do not fit the manifest.
    """
    import joblib

    folder = folder.resolve()  # a link keeps pointing where it does
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - FILES - {MANIFEST, SIGNATURE}):
        raise ComponentsError(str(folder), "holds other files than model components; name a new folder")
    if (folder / MANIFEST).exists():
        _read_manifest(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        files = {}
        for part in draft.manifest.estimators:
            buffer = io.BytesIO()
            joblib.dump(getattr(draft, part), buffer)
            _write(scratch / f"{part}.pkl", buffer.getvalue())
            files[f"{part}.pkl"] = hashlib.sha256(buffer.getvalue()).hexdigest()
        manifest = msgspec.structs.replace(draft.manifest, libraries=_library_versions(), files=files)
        golden = _score_golden_rows(manifest, draft)
        manifest = msgspec.structs.replace(manifest, golden=golden)
        _write(scratch / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
        scratch.chmod(0o755)
        loaded = load_components(scratch)
        _replace_folder(scratch, folder)
        return loaded
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _read_manifest(folder: Path, trust: Trust = Trust()) -> tuple[Manifest, str]:  # noqa: B008 - it never changes
    content = _read(folder / MANIFEST)
    check_manifest(folder / MANIFEST, content, trust)
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ComponentsError(str(folder / MANIFEST), f"cannot be read: {error}") from error
    if manifest.format != FORMAT:
        raise ComponentsError(str(folder / MANIFEST), f"format {manifest.format} is not {FORMAT}, which this version reads")
    expected = [f"{part}.pkl" for part in manifest.estimators]
    if manifest.files.keys() != set(expected):
        names = " and ".join([", ".join(expected[:-1]), expected[-1]] if expected[1:] else expected)
        raise ComponentsError(str(folder / MANIFEST), f"names other files than {names}")
    if not manifest.golden:
        raise ComponentsError(str(folder / MANIFEST), "has no golden rows")
    return manifest, hashlib.sha256(content).hexdigest()


def _read(path: Path) -> bytes:
    """The bytes of a regular file of the folder: no link leads out of it, no pipe or device keeps the reader."""
    try:
        if not path.resolve(strict=True).is_relative_to(path.parent.resolve()):
            raise ComponentsError(str(path), "is a link that leads out of the folder")
        if not path.is_file():
            raise ComponentsError(str(path), "is no regular file")
        return path.read_bytes()
    except OSError as error:
        raise ComponentsError(str(path), f"cannot be read: {error.strerror}") from error


def _read_verified(folder: Path, trust: Trust) -> tuple[Manifest, str, dict[str, bytes]]:
    """Manifest, its digest, and the bytes of each file, which are those that will be unpickled: nothing is read twice."""
    manifest, digest = _read_manifest(folder, trust)
    contents = {name: _read(folder / name) for name in manifest.files}
    for name, content in contents.items():
        found, expected = hashlib.sha256(content).hexdigest(), manifest.files[name]
        if found != expected:
            reason = f"its SHA-256 is {found[:12]}…, the manifest says {expected[:12]}…"
            raise ComponentsError(str(folder / name), reason)
    _check_libraries(folder, manifest)
    return manifest, digest, contents


def _library_versions() -> dict[str, str]:
    versions = {library: importlib.metadata.version(library) for library in LIBRARIES}
    return {"python": ".".join(platform.python_version_tuple()[:2]), **versions}


def _check_libraries(folder: Path, manifest: Manifest) -> None:
    for library, found in _library_versions().items():
        expected = manifest.libraries.get(library)
        if expected != found:
            reason = f"made with {library} {expected}, but {found} is installed; make the components again"
            raise ComponentsError(str(folder / MANIFEST), reason)


def _unpickle(path: Path, content: bytes) -> Any:
    import joblib

    try:
        return joblib.load(io.BytesIO(content))
    except Exception as error:  # unpickling runs the libraries' own code, which may raise anything
        raise ComponentsError(str(path), f"cannot be unpickled: {type(error).__name__}: {error}") from error


def numeric_fits(numeric: Sequence[Column], imputer: Any, scaler: Any) -> dict[str, NumericFit]:
    """What an imputer and a scaler, fitted on these columns, learned of each of them."""
    learned = zip(numeric, imputer.statistics_, scaler.mean_, scaler.scale_, strict=True)
    return {
        column.name: NumericFit(imputed=float(imputed), mean=float(mean), scale=float(scale))
        for column, imputed, mean, scale in learned
    }


def _compile(manifest: Manifest, digest: str, imputer: Any, scaler: Any, model: Any) -> Components:
    numeric = [column.name for column in manifest.schema.numeric]
    names = [feature.name for feature in manifest.features]
    for part, estimator, expected in (("imputer", imputer, numeric), ("scaler", scaler, numeric), ("model", model, names)):
        if part not in manifest.estimators:
            continue
        fitted_on = getattr(estimator, "feature_names_in_", None) if manifest.is_raw else estimator.feature_names_in_
        if len(expected) != estimator.n_features_in_ or (fitted_on is not None and list(fitted_on) != expected):
            raise ComponentsError(f"{part}.pkl", "was fitted on other columns than the manifest says")
    if [str(label) for label in model.classes_] != [str(label) for label in manifest.classes]:
        raise ComponentsError("model.pkl", "was fitted on other classes than the manifest says")
    columns = _in_selected_order(manifest)
    if manifest.is_raw:
        fits = {column.name: NumericFit(imputed=np.nan, mean=0.0, scale=1.0) for column in columns}
        are_raw_columns = [feature.name for feature in manifest.features] == [column.name for column in columns]
        scorer = compile_scorer(model, columns if are_raw_columns else ())
    else:
        fits = numeric_fits(manifest.schema.numeric, imputer, scaler) if numeric else {}
        scorer = compile_scorer(model)
    return Components(manifest, digest, FeatureEncoder(columns, manifest.features, fits), scorer, model)


def _in_selected_order(manifest: Manifest) -> tuple[Column, ...]:
    return tuple(manifest.schema.column(name) for name in manifest.selected_features)


def _golden_arrays(parser: RowParser, golden: Sequence[GoldenRow]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    chunks = list(parser.chunks(msgspec.json.encode([row.row for row in golden])))
    problems = [problem for chunk in chunks for problem in chunk.problems]
    if problems:
        raise ValueError(f"golden {problems[0].message}")
    values = np.concatenate([chunk.values for chunk in chunks])
    return values, np.array([row.probabilities for row in golden])


def _check_golden_rows(folder: Path, components: Components) -> None:
    values, expected = components.golden_values()
    matrix = components.encoder.encode(values)
    for scored_by, found in (
        ("the compiled scorer", components.scorer.score(matrix)),
        ("scikit-learn", _predict_proba(components.model, components.encoder.columns, matrix)),
    ):
        if found.shape != expected.shape:
            raise ComponentsError(str(folder), f"{scored_by} gives {found.shape[1]} probabilities a row")
        difference = float(np.abs(found - expected).max())
        if not difference <= GOLDEN_TOLERANCE:
            worst = int(np.abs(found - expected).max(axis=1).argmax())
            reason = f"golden row {worst} differs by {difference:.3g} when scored by {scored_by}"
            raise ComponentsError(str(folder), reason)


def _score_golden_rows(manifest: Manifest, draft: Draft) -> tuple[GoldenRow, ...]:
    """The golden rows with what scikit-learn itself, uncompiled, makes of them: imputer, scaler, levels, model."""
    import pandas as pd

    columns = _in_selected_order(manifest)
    parser = RowParser(columns, max_magnitude=1e300, max_rows=len(draft.golden_rows))
    rows = [{column.name: row[column.name] for column in columns} for row in draft.golden_rows]
    values, _ = _golden_arrays(parser, [GoldenRow(row, ()) for row in rows])
    raw = pd.DataFrame(values, columns=[column.name for column in columns])
    if "imputer" in manifest.estimators:
        numbers = pd.DataFrame({column.name: raw.get(column.name, np.nan) for column in manifest.schema.numeric}, raw.index)
        numbers = pd.DataFrame(
            draft.scaler.transform(pd.DataFrame(draft.imputer.transform(numbers), columns=numbers.columns)),
            columns=numbers.columns,
        )
    else:
        numbers = raw
    columns_of_matrix = [
        numbers[feature.column]
        if feature.level is None
        else raw[feature.column] == manifest.schema.column(feature.column).levels.index(feature.level)
        for feature in manifest.features
    ]
    matrix = np.column_stack(columns_of_matrix).astype(np.float64)
    probabilities = _predict_proba(draft.model, columns, matrix)
    return tuple(GoldenRow(row, tuple(map(float, scored))) for row, scored in zip(rows, probabilities, strict=True))


def _predict_proba(model: Any, columns: Sequence[Column], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    names = list(getattr(model, "feature_names_in_", ()))
    if names == [column.name for column in columns]:  # it may address them by name
        return EstimatorScorer(model, columns).score(matrix)
    with warnings.catch_warnings():
        # scikit-learn misses the column names; _compile has compared their order with the manifest's.
        warnings.filterwarnings("ignore", "X does not have valid feature names", UserWarning)
        return np.asarray(model.predict_proba(matrix))


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _replace_folder(new: Path, old: Path) -> None:
    """Puts ``new`` in the place of ``old`` at once; a crash leaves one or the other there, whole."""
    if not old.exists():
        new.rename(old)
        return
    exchange, here = 2, -100  # RENAME_EXCHANGE and AT_FDCWD of linux/fs.h and fcntl.h
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None or renameat2(here, os.fsencode(new), here, os.fsencode(old), exchange) != 0:
        # No such call on this system or file system: the next best is two renames with a short gap between.
        aside = new.with_name(f"{new.name}.old")
        old.rename(aside)
        new.rename(old)
        shutil.rmtree(aside)
