"""Where model components come from: the pinned digest of the manifest and its detached signature.

The manifest contains the digests of all other files, so trusting the manifest is trusting them. Signatures are Ed25519 (RFC
8032), 64 bytes in a file next to the manifest; keys are PEM files as ``openssl genpkey -algorithm ed25519`` writes them. Knows
nothing about the contents of a manifest.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import NamedTuple

from serve_app.errors import ComponentsError

__all__ = ["SIGNATURE", "Trust", "check_manifest", "sign_manifest"]

SIGNATURE = "manifest.json.sig"


class Trust(NamedTuple):
    """What a manifest must prove before it is trusted; None requires nothing.

    ``sha256`` is the digest of the manifest itself, in hexadecimal; ``public_key`` is a PEM file.
    """

    sha256: str | None = None
    public_key: Path | None = None


def check_manifest(manifest: Path, content: bytes, trust: Trust) -> None:
    """Raises ComponentsError unless ``content``, read from ``manifest``, meets ``trust``."""
    if trust.sha256 is not None:
        found = hashlib.sha256(content).hexdigest()
        if not hmac.compare_digest(found, trust.sha256.lower()):
            raise ComponentsError(str(manifest), f"its SHA-256 is {found[:12]}…, the settings say {trust.sha256[:12]}…")
    if trust.public_key is not None:
        _check_signature(manifest, content, trust.public_key)


def sign_manifest(manifest: Path, private_key: Path) -> Path:
    """Writes the signature next to the manifest and returns its path.

    Raises:
        ComponentsError: a file cannot be read, or the key is not an Ed25519 key without a password.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(_read(private_key), password=None)
    except (ValueError, TypeError) as error:
        raise ComponentsError(str(private_key), f"is not a private key without a password: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ComponentsError(str(private_key), "is not an Ed25519 key")
    signature = manifest.with_name(SIGNATURE)
    signature.write_bytes(key.sign(_read(manifest)))
    return signature


def _check_signature(manifest: Path, content: bytes, public_key: Path) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_read(public_key))
    except ValueError as error:
        raise ComponentsError(str(public_key), f"is not a public key: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ComponentsError(str(public_key), "is not an Ed25519 key")
    signature = manifest.with_name(SIGNATURE)
    try:
        key.verify(_read(signature), content)
    except InvalidSignature as error:
        raise ComponentsError(str(signature), f"is not a signature of {manifest.name} by the key in {public_key}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ComponentsError(str(path), f"cannot be read: {error.strerror}") from error
