"""Keys and signatures by the commands that docs/security.md and docs/models.md show."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from serve_app.api.key_file import read_keys
from serve_app.config import PROJECT_ROOT

pytestmark = pytest.mark.e2e


def serve_app(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serve_app", *map(str, arguments)]
    return subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_a_key_is_made_listed_and_revoked(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    made = serve_app("keys", "make", "billing", "--file", file, "--scope", "predict", "--requests-per-s", "5")
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    assert key.startswith("cp_")
    assert key not in file.read_text()
    (entry,) = read_keys(file)
    assert (entry.name, entry.scopes, entry.requests_per_s) == ("billing", ("predict",), 5.0)
    listed = serve_app("keys", "list", "--file", file)
    assert entry.id in listed.stdout
    assert "billing" in listed.stdout
    assert key not in listed.stdout
    revoked = serve_app("keys", "revoke", entry.id, "--file", file)
    assert revoked.stdout == f"{entry.id} (billing) is revoked.\n"
    assert read_keys(file) == ()


@pytest.mark.parametrize(
    "arguments", [["list"], ["revoke", "12345678"], ["make", "no/slash"], ["make", "x", "--file", "/nowhere/keys.json"]]
)
def test_what_cannot_be_done_with_keys_is_one_line_and_no_key(tmp_path: Path, arguments: list[str]) -> None:
    done = serve_app("keys", arguments[0], "--file", tmp_path / "keys.json", *arguments[1:])
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1


def test_run_refuses_a_keys_file_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{}")
    done = serve_app("run", "--keys", tmp_path / "keys.json")
    assert done.returncode == 1
    assert "is not a keys file" in done.stderr
    assert done.stderr.count("\n") == 1


def test_components_are_signed_by_a_key_of_openssl(tmp_path: Path) -> None:
    folder = shutil.copytree(PROJECT_ROOT / "model_components", tmp_path / "model")
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True, timeout=60)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True, timeout=60)
    signed = serve_app("sign", folder, "--key", private)
    assert signed.returncode == 0, signed.stderr
    assert "manifest.json.sig: signed manifest" in signed.stdout
    subprocess.run(
        ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", public, "-in", folder / "manifest.json",
         "-sigfile", folder / "manifest.json.sig"],
        check=True,
        timeout=60,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
