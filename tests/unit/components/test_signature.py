"""Malicious components with a harmless payload, refused by the digest or the signature of the manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
from support.component_folders import adapt_manifest, digest_of, malicious

from serve_app.components.loading import load_components, load_served_components
from serve_app.components.saving import save_components
from serve_app.components.signature import Trust, sign_manifest
from serve_app.config import Settings
from serve_app.errors import ComponentsError
from serve_app.exercise.published_model import PublishedModel, draft_reference


def write_key(path: Path, key: Any, encryption: KeySerializationEncryption | None = None) -> Path:
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()))
    return path


def write_public_key(path: Path, key: Any) -> Path:
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


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
    with pytest.raises(ComponentsError, match="is not a signature of"):
        load_served_components(settings)
    sign_manifest_as_a_stranger(folder, tmp_path)
    with pytest.raises(ComponentsError, match="is not a signature of"):
        load_served_components(settings)
    assert not proof.exists()


def sign_manifest_as_a_stranger(folder: Path, tmp_path: Path) -> None:
    key = write_key(tmp_path / "stranger.pem", Ed25519PrivateKey.generate())
    (folder / "manifest.json.sig").write_bytes(b"")
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    stranger = load_pem_private_key(key.read_bytes(), None)
    assert isinstance(stranger, Ed25519PrivateKey)
    (folder / "manifest.json.sig").write_bytes(stranger.sign((folder / "manifest.json").read_bytes()))


def test_keys_of_another_kind_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    manifest = folder / "manifest.json"
    other = generate_private_key(SECP256R1())
    for path, said in (
        (write_key(tmp_path / "ec.pem", other), "ec.pem: is not an Ed25519 key"),
        (write_key(tmp_path / "locked.pem", Ed25519PrivateKey.generate(), BestAvailableEncryption(b"x")), "without a password"),
        (manifest, "is not a private key"),
        (tmp_path / "nowhere.pem", "cannot be read"),
    ):
        with pytest.raises(ComponentsError, match=said):
            sign_manifest(manifest, path)
    for path, said in (
        (write_public_key(tmp_path / "ec-public.pem", other), "is not an Ed25519 key"),
        (manifest, "is not a public key"),
    ):
        with pytest.raises(ComponentsError, match=said):
            load_components(folder, Trust(public_key=path))


def test_signed_components_may_be_replaced_and_lose_the_signature(
    folder: Path, tmp_path: Path, published: PublishedModel
) -> None:
    sign_manifest(folder / "manifest.json", write_key(tmp_path / "private.pem", Ed25519PrivateKey.generate()))
    save_components(folder, draft_reference(published, "reject"))
    assert not (folder / "manifest.json.sig").exists()
