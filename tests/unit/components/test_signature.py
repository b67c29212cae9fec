"""Malicious components, placed in each way, with a harmless payload: it makes a folder when it is unpickled."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import joblib
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from serve_app.components import loading as components_module
from serve_app.components.loading import load_components, load_served_components
from serve_app.components.saving import save_components
from serve_app.components.signature import Trust, sign_manifest
from serve_app.config import Settings
from serve_app.errors import ComponentsError
from serve_app.exercise.published_model import PublishedModel, draft_reference


class Payload:
    """Harmless: makes a folder when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.proof),)


@pytest.fixture
def folder(tmp_path: Path, components_folder: Path) -> Path:
    return Path(shutil.copytree(components_folder, tmp_path / "components"))


@pytest.fixture
def proof(tmp_path: Path) -> Path:
    return tmp_path / "executed"


def malicious(proof: Path) -> bytes:
    buffer = io.BytesIO()
    joblib.dump(Payload(proof), buffer)
    return buffer.getvalue()


def adapt_manifest(folder: Path, name: str) -> None:
    """What an attacker who can write to the folder does: the manifest says what the changed file is."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def digest_of(folder: Path) -> str:
    return hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()


def write_key(path: Path, key: Any, encryption: KeySerializationEncryption | None = None) -> Path:
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()))
    return path


def write_public_key(path: Path, key: Any) -> Path:
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


def test_the_payload_works_where_nothing_is_asked_for(folder: Path, proof: Path) -> None:
    # Otherwise the tests below would prove nothing. Whoever may write both files is trusted, unless the settings pin or sign.
    (folder / "model.pkl").write_bytes(malicious(proof))
    adapt_manifest(folder, "model.pkl")
    with pytest.raises(ComponentsError, match="do not fit"):
        load_components(folder)
    assert proof.exists()


@pytest.mark.parametrize("name", ["imputer.pkl", "scaler.pkl", "model.pkl"])
def test_a_pickle_of_another_digest_is_not_executed(folder: Path, proof: Path, name: str) -> None:
    (folder / name).write_bytes(malicious(proof))
    with pytest.raises(ComponentsError, match="SHA-256"):
        load_components(folder)
    assert not proof.exists()


def test_a_changed_manifest_is_refused_where_its_digest_is_pinned(folder: Path, proof: Path) -> None:
    settings = Settings(components=str(folder), components_sha256=digest_of(folder).upper())
    assert load_served_components(settings).digest == digest_of(folder)
    (folder / "model.pkl").write_bytes(malicious(proof))
    adapt_manifest(folder, "model.pkl")
    with pytest.raises(ComponentsError, match=r"manifest\.json: its SHA-256 is .* the settings say"):
        load_served_components(settings)
    assert not proof.exists()


def test_a_changed_manifest_is_refused_where_it_must_be_signed(folder: Path, proof: Path, tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    settings = Settings(components=str(folder), components_public_key=str(write_public_key(tmp_path / "public.pem", key)))
    with pytest.raises(ComponentsError, match=r"manifest\.json\.sig: cannot be read"):
        load_served_components(settings)
    sign_manifest(folder / "manifest.json", write_key(tmp_path / "private.pem", key))
    assert load_served_components(settings).digest == digest_of(folder)
    (folder / "model.pkl").write_bytes(malicious(proof))
    adapt_manifest(folder, "model.pkl")
    with pytest.raises(ComponentsError, match="is no signature of"):
        load_served_components(settings)
    sign_manifest_as_a_stranger(folder, tmp_path)
    with pytest.raises(ComponentsError, match="is no signature of"):
        load_served_components(settings)
    assert not proof.exists()


def sign_manifest_as_a_stranger(folder: Path, tmp_path: Path) -> None:
    key = write_key(tmp_path / "stranger.pem", Ed25519PrivateKey.generate())
    (folder / "manifest.json.sig").write_bytes(b"")
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    stranger = load_pem_private_key(key.read_bytes(), None)
    assert isinstance(stranger, Ed25519PrivateKey)
    (folder / "manifest.json.sig").write_bytes(stranger.sign((folder / "manifest.json").read_bytes()))


@pytest.mark.parametrize("name", ["manifest.json", "model.pkl"])
def test_a_link_that_leads_out_of_the_folder_is_not_followed(folder: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    (folder / name).rename(outside)  # the right content: only the way to it is wrong
    (folder / name).symlink_to(outside)
    with pytest.raises(ComponentsError, match=f"{name}: is a link that leads out of the folder"):
        load_components(folder)
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    with pytest.raises(ComponentsError, match="leads out"):
        load_components(folder)


def test_a_pipe_in_a_files_place_keeps_nobody_waiting(folder: Path) -> None:
    (folder / "model.pkl").unlink()
    os.mkfifo(folder / "model.pkl")
    with pytest.raises(ComponentsError, match="is no regular file"):
        load_components(folder)


def test_links_within_the_folder_work_as_where_a_volume_is_mounted(folder: Path) -> None:
    (folder / "..data").mkdir()
    for name in ("manifest.json", "imputer.pkl", "scaler.pkl", "model.pkl"):
        (folder / name).rename(folder / "..data" / name)
        (folder / name).symlink_to(Path("..data") / name)
    assert load_components(folder).digest == digest_of(folder)


def test_a_file_that_is_swapped_between_check_and_load_is_not_the_one_that_is_loaded(
    folder: Path, proof: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, swapped = components_module._check_libraries, []

    def swap_then_check(*arguments: Any) -> None:  # it runs when all digests have been compared
        for name in ("imputer.pkl", "scaler.pkl", "model.pkl"):
            (folder / name).write_bytes(malicious(proof))
            swapped.append(name)
        real(*arguments)

    monkeypatch.setattr(components_module, "_check_libraries", swap_then_check)
    assert load_components(folder).digest == digest_of(folder)
    assert len(swapped) == 3
    assert not proof.exists()


def test_keys_of_another_kind_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    manifest = folder / "manifest.json"
    other = generate_private_key(SECP256R1())
    for path, said in (
        (write_key(tmp_path / "ec.pem", other), "ec.pem: is no Ed25519 key"),
        (write_key(tmp_path / "locked.pem", Ed25519PrivateKey.generate(), BestAvailableEncryption(b"x")), "without a password"),
        (manifest, "is no private key"),
        (tmp_path / "nowhere.pem", "cannot be read"),
    ):
        with pytest.raises(ComponentsError, match=said):
            sign_manifest(manifest, path)
    for path, said in (
        (write_public_key(tmp_path / "ec-public.pem", other), "is no Ed25519 key"),
        (manifest, "is no public key"),
    ):
        with pytest.raises(ComponentsError, match=said):
            load_components(folder, Trust(public_key=path))


def test_signed_components_may_be_replaced_and_lose_the_signature(
    folder: Path, tmp_path: Path, published: PublishedModel
) -> None:
    sign_manifest(folder / "manifest.json", write_key(tmp_path / "private.pem", Ed25519PrivateKey.generate()))
    save_components(folder, draft_reference(published, "reject"))
    assert not (folder / "manifest.json.sig").exists()
