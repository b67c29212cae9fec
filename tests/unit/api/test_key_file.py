"""The file of keys: creating, reading and revoking."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serve_app.api.key_file import make_key, read_keys, revoke_key
from serve_app.errors import KeysError

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_the_file_holds_no_key_and_is_nobody_elses_to_read(path: Path) -> None:
    key = make_key(path, "billing")
    (entry,) = read_keys(path)
    assert key not in path.read_text()
    assert entry.sha256 == hashlib.sha256(key.encode()).hexdigest()
    assert (entry.name, entry.scopes, entry.expires) == ("billing", ("predict", "model"), None)
    assert key.startswith(f"cp_{entry.id}_")
    assert len(key) == 55
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_who_may_read_the_file_stays_as_it_was_set(path: Path) -> None:
    make_key(path, "billing")
    path.chmod(0o640)
    make_key(path, "other")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_revoking_a_key_that_is_not_there_is_said(path: Path) -> None:
    make_key(path, "billing")
    with pytest.raises(KeysError, match=r"keys\.json: has no key with the id '12345678'"):
        revoke_key(path, "12345678")
    assert len(read_keys(path)) == 1


@pytest.mark.parametrize("name", ["", "x" * 65, "a\nb", "\x1b[31m", "-x"])
def test_a_name_that_would_spoil_a_list_is_refused(path: Path, name: str) -> None:
    with pytest.raises(KeysError, match="the key is invalid"):
        make_key(path, name)
    assert not path.exists()


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda file: file.update(format=2), "format"),
        (lambda file: file.update(surprise=1), "surprise"),
        (lambda file: file["keys"].append(file["keys"][0]), "two keys with the same id"),
        (lambda file: file["keys"][0].update(scopes=["everything"]), "scopes"),
        (lambda file: file["keys"][0].update(sha256="short"), "sha256"),
        (lambda file: file["keys"][0].update(expires="2030-01-01T00:00:00"), "expires"),
        (lambda file: file["keys"][0].update(requests_per_s=0), "requests_per_s"),
        (lambda file: file["keys"][0].pop("created"), "created"),
    ],
)
def test_a_file_that_is_not_a_keys_file_is_refused_by_what_is_wrong(path: Path, edit: Edit, said: str) -> None:
    make_key(path, "billing")
    file = json.loads(path.read_text())
    edit(file)
    path.write_text(json.dumps(file))
    with pytest.raises(KeysError, match=said) as refused:
        read_keys(path)
    assert "\n" not in str(refused.value)


@pytest.fixture
def path_of_all() -> Iterator[Path]:
    """In a folder that every user may write to, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder) / "keys.json"


def owner_and_mode(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


@needs_root
def test_root_changes_the_keys_and_the_file_still_belongs_to_the_user_of_the_service(path_of_all: Path) -> None:
    make_key(path_of_all, "first")
    os.chown(path_of_all, NOBODY, NOBODY + 1)
    path_of_all.chmod(0o640)
    key = make_key(path_of_all, "second")
    assert owner_and_mode(path_of_all) == (NOBODY, NOBODY + 1, 0o640)
    revoke_key(path_of_all, key[3:11])
    assert owner_and_mode(path_of_all) == (NOBODY, NOBODY + 1, 0o640)


@needs_root
def test_a_user_who_cannot_keep_the_owner_of_the_file_does_not_change_it(path_of_all: Path) -> None:
    make_key(path_of_all, "first")
    path_of_all.chmod(0o644)
    os.seteuid(NOBODY)
    try:
        with pytest.raises(KeysError, match="belongs to another user"):
            make_key(path_of_all, "second")
    finally:
        os.seteuid(0)
    assert [key.name for key in read_keys(path_of_all)] == ["first"]
    assert [found.name for found in path_of_all.parent.iterdir()] == ["keys.json"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match=r"nowhere/keys\.json: cannot be written: No such file"):
        make_key(tmp_path / "nowhere" / "keys.json", "first")


def test_two_commands_at_once_lose_no_change(path: Path) -> None:
    make_key(path, "first")
    pids = []
    for number in range(8):
        pid = os.fork()
        if pid == 0:
            make_key(path, f"child {number}")
            os._exit(0)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 8
    assert {key.name for key in read_keys(path)} == {"first", *(f"child {number}" for number in range(8))}
