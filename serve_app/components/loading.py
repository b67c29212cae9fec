"""Loading model components: a folder is verified, unpickled, compiled and proven, in this order.

Owns the verification. Nothing is unpickled before its digest matches the manifest, and a model that scores its golden rows
differently is refused. What a folder holds is described by the package, what a signature is by ``signature``.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from serve_app.components.compiled import Components, compile_components
from serve_app.components.golden_rows import GOLDEN_TOLERANCE, predict_proba
from serve_app.components.manifest import FORMAT, MANIFEST, Manifest, library_versions
from serve_app.components.pickles import unpickle
from serve_app.components.signature import Trust, check_manifest
from serve_app.config import Settings, resolve_path
from serve_app.errors import ComponentsError
from serve_app.scoring.scorers import settle

__all__ = ["load_components", "load_served_components", "read_manifest", "trust_of", "verify_files"]


def load_served_components(settings: Settings) -> Components:
    """The components that the settings name, verified as the settings require; raises what ``load_components`` raises."""
    return load_components(resolve_path(settings.components), trust_of(settings))


def trust_of(settings: Settings) -> Trust:
    """What the settings require of the components."""
    key = settings.components_public_key
    return Trust(settings.components_sha256, None if key is None else resolve_path(key))


def load_components(folder: Path, trust: Trust = Trust()) -> Components:  # noqa: B008 - immutable
    """Verified, compiled components.

    Checks, in this order, that the manifest meets ``trust``; that each file has the digest in the manifest; that the installed
    libraries have the versions that made the pickles; and that the compiled scorer and scikit-learn itself both give the golden
    rows their recorded probabilities, to within 1e-12. Only the last check unpickles anything.

    Raises:
        ComponentsError: the first check that failed, in one line.
    """
    manifest, digest, contents = _read_verified(folder, trust)
    estimators = {part: unpickle(folder / f"{part}.pkl", contents[f"{part}.pkl"]) for part in manifest.estimators}
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


def verify_files(folder: Path, trust: Trust = Trust()) -> str:  # noqa: B008 - immutable
    """The checks of ``load_components`` that need only milliseconds and unpickle nothing: manifest, digests, versions.

    Returns the manifest's digest, which identifies the components.

    Raises:
        ComponentsError: the first check that failed, in one line.
    """
    _, digest, _ = _read_verified(folder, trust)
    return digest


def read_manifest(folder: Path, trust: Trust = Trust()) -> tuple[Manifest, str]:  # noqa: B008 - immutable
    """A folder's manifest and its SHA-256.

    Raises:
        ComponentsError: it cannot be read, does not meet ``trust``, or has another format.
    """
    content = _read(folder / MANIFEST)
    check_manifest(folder / MANIFEST, content, trust)
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ComponentsError(str(folder / MANIFEST), f"cannot be read: {error}") from error
    if manifest.format != FORMAT:
        raise ComponentsError(str(folder / MANIFEST), f"has format {manifest.format}; this version reads format {FORMAT}")
    expected = [f"{part}.pkl" for part in manifest.estimators]
    if manifest.files.keys() != set(expected):
        names = " and ".join([", ".join(expected[:-1]), expected[-1]] if expected[1:] else expected)
        raise ComponentsError(str(folder / MANIFEST), f"must list the files {names}, and no other files")
    if not manifest.golden:
        raise ComponentsError(str(folder / MANIFEST), "has no golden rows")
    return manifest, hashlib.sha256(content).hexdigest()


def _read(path: Path) -> bytes:
    """The bytes of a regular file within the folder: not of a link to elsewhere, nor of a pipe or device that never ends."""
    try:
        if not path.resolve(strict=True).is_relative_to(path.parent.resolve()):
            raise ComponentsError(str(path), "is a link to a file outside of the folder")
        if not path.is_file():
            raise ComponentsError(str(path), "is not a regular file")
        return path.read_bytes()
    except OSError as error:
        raise ComponentsError(str(path), f"cannot be read: {error.strerror}") from error


def _read_verified(folder: Path, trust: Trust) -> tuple[Manifest, str, dict[str, bytes]]:
    """The manifest, its digest and the bytes of each file. No file is read twice: the bytes that are checked are unpickled."""
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
            reason = f"was made with {library} {expected}, but {found} is installed; make the components again"
            raise ComponentsError(str(folder / MANIFEST), reason)


def _check_golden_rows(folder: Path, components: Components) -> None:
    values, expected = components.golden_values()
    matrix = components.encoder.encode(values)
    for scored_by, found in (
        ("the compiled scorer", components.scorer.score(matrix)),
        ("scikit-learn", predict_proba(components.model, components.encoder.columns, matrix)),
    ):
        if found.shape != expected.shape:
            raise ComponentsError(str(folder), f"{scored_by} gives {found.shape[1]} probabilities per row")
        difference = float(np.abs(found - expected).max())
        if not difference <= GOLDEN_TOLERANCE:
            worst = int(np.abs(found - expected).max(axis=1).argmax())
            reason = f"golden row {worst} differs by {difference:.3g} when scored by {scored_by}"
            raise ComponentsError(str(folder), reason)
