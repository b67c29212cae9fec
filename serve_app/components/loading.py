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

import hashlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from serve_app.components.compiled import Components, compile_components
from serve_app.components.golden_rows import GOLDEN_TOLERANCE, predict_proba
from serve_app.components.manifest import FORMAT, MANIFEST, Manifest, library_versions
from serve_app.components.signature import Trust, check_manifest
from serve_app.config import Settings, resolve_path
from serve_app.errors import ComponentsError
from serve_app.scoring.scorers import settle

__all__ = ["load_components", "load_served_components", "read_manifest", "trust_of", "verify_files"]


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
        components = compile_components(
            manifest, digest, estimators.get("imputer"), estimators.get("scaler"), estimators["model"]
        )
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


def read_manifest(folder: Path, trust: Trust = Trust()) -> tuple[Manifest, str]:  # noqa: B008 - it never changes
    """A folder's manifest and its SHA-256.

    Raises:
        ComponentsError: it cannot be read, is not what ``trust`` asks for, or is of another format.
    """
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
    manifest, digest = read_manifest(folder, trust)
    contents = {name: _read(folder / name) for name in manifest.files}
    for name, content in contents.items():
        found, expected = hashlib.sha256(content).hexdigest(), manifest.files[name]
        if found != expected:
            reason = f"its SHA-256 is {found[:12]}…, the manifest says {expected[:12]}…"
            raise ComponentsError(str(folder / name), reason)
    _check_libraries(folder, manifest)
    return manifest, digest, contents


def _check_libraries(folder: Path, manifest: Manifest) -> None:
    for library, found in library_versions().items():
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


def _check_golden_rows(folder: Path, components: Components) -> None:
    values, expected = components.golden_values()
    matrix = components.encoder.encode(values)
    for scored_by, found in (
        ("the compiled scorer", components.scorer.score(matrix)),
        ("scikit-learn", predict_proba(components.model, components.encoder.columns, matrix)),
    ):
        if found.shape != expected.shape:
            raise ComponentsError(str(folder), f"{scored_by} gives {found.shape[1]} probabilities a row")
        difference = float(np.abs(found - expected).max())
        if not difference <= GOLDEN_TOLERANCE:
            worst = int(np.abs(found - expected).max(axis=1).argmax())
            reason = f"golden row {worst} differs by {difference:.3g} when scored by {scored_by}"
            raise ComponentsError(str(folder), reason)
