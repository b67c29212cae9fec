"""Keys: made, read, revoked, and what each may ask for."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import stat
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from serve_app.api.key_file import make_key, read_keys, revoke_key
from serve_app.api.keyring import Keyring
from serve_app.config import AccessSettings
from serve_app.errors import ForbiddenError, KeysError, TooManyRequestsError, UnauthorizedError

Edit = Callable[[dict[str, Any]], object]


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def clock() -> Clock:
    return Clock()


def bearer(key: str) -> list[bytes]:
    return [f"Bearer {key}".encode()]


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


def test_several_keys_are_valid_at_once_until_one_is_revoked(path: Path, clock: Clock) -> None:
    old, new = make_key(path, "old"), make_key(path, "new")
    keyring = Keyring(path, AccessSettings(), clock)
    assert [keyring.admit(bearer(key), "predict").key.name for key in (old, new)] == ["old", "new"]
    assert revoke_key(path, old[3:11]).name == "old"
    clock.now += 1
    with pytest.raises(UnauthorizedError, match="not valid"):
        keyring.admit(bearer(old), "predict")
    assert keyring.admit(bearer(new), "predict").key.name == "new"


def test_a_new_key_is_valid_within_a_second_and_the_file_is_not_read_for_every_request(path: Path, clock: Clock) -> None:
    make_key(path, "first")
    keyring = Keyring(path, AccessSettings(), clock)
    late = make_key(path, "late")
    clock.now += 0.9
    with pytest.raises(UnauthorizedError):
        keyring.admit(bearer(late), None)
    clock.now += 0.1
    assert keyring.admit(bearer(late), None).key.name == "late"


def test_revoking_a_key_that_is_not_there_is_said(path: Path) -> None:
    make_key(path, "billing")
    with pytest.raises(KeysError, match="no key with the id '12345678'"):
        revoke_key(path, "12345678")
    assert len(read_keys(path)) == 1


@pytest.mark.parametrize("name", ["", "x" * 65, "a\nb", "\x1b[31m", "-x"])
def test_a_name_that_would_spoil_a_list_is_refused(path: Path, name: str) -> None:
    with pytest.raises(KeysError, match="cannot be made"):
        make_key(path, name)
    assert not path.exists()


def test_wrong_credentials_are_all_refused_alike(path: Path, clock: Clock) -> None:
    key = make_key(path, "billing")
    keyring = Keyring(path, AccessSettings(), clock)
    last = "A" if key[-1] != "A" else "B"
    wrong: list[list[bytes]] = [
        bearer(key[:-1] + last),
        bearer(key[:-1]),
        bearer(key + "x"),
        bearer(f"cp_00000000_{key[12:]}"),
        bearer(key.upper()),
        bearer(read_keys(path)[0].sha256),
        bearer(""),
        [f"Basic {key}".encode()],
        [key.encode()],
        [b"Bearer \xff"],
        [b""],
        bearer(key) * 2,
    ]
    for authorization in wrong:
        with pytest.raises(UnauthorizedError, match="the API key is not valid"):
            keyring.admit(authorization, "predict")
    with pytest.raises(UnauthorizedError, match="an API key is needed"):
        keyring.admit([], "predict")
    assert keyring.admit([f"bearer   {key} ".encode()], "predict").key.name == "billing"


def test_the_comparison_takes_the_same_steps_whether_there_is_such_a_key_or_not(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = make_key(path, "billing")
    keyring = Keyring(path, AccessSettings(), clock)
    compared = []
    real = hmac.compare_digest

    def compare(ours: bytes, theirs: bytes) -> bool:
        compared.append((len(ours), len(theirs)))
        return real(ours, theirs)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for given in (f"cp_00000000_{key[12:]}", f"{key[:-1]}_", "nonsense"):
        with pytest.raises(UnauthorizedError):
            keyring.admit(bearer(given), "predict")
    assert compared == [(32, 32)] * 3


def test_a_key_is_for_what_it_was_made_for(path: Path, clock: Clock) -> None:
    key = make_key(path, "dashboards", ["model"])
    keyring = Keyring(path, AccessSettings(), clock)
    assert keyring.admit(bearer(key), "model").key.scopes == ("model",)
    with pytest.raises(ForbiddenError, match="not for 'predict'"):
        keyring.admit(bearer(key), "predict")


def test_a_key_that_has_expired_is_not_valid(path: Path, clock: Clock) -> None:
    key = make_key(path, "guest", expires_in=timedelta(seconds=-1))
    with pytest.raises(UnauthorizedError):
        Keyring(path, AccessSettings(), clock).admit(bearer(key), "predict")


def test_a_rate_allows_a_seconds_worth_at_once_and_then_what_time_brings(path: Path, clock: Clock) -> None:
    key, other = make_key(path, "slow"), make_key(path, "fast", requests_per_s=100)
    keyring = Keyring(path, AccessSettings(requests_per_s=2), clock)
    for _ in range(2):
        keyring.admit(bearer(key), "predict")
    with pytest.raises(TooManyRequestsError, match="more than 2 requests per second") as refused:
        keyring.admit(bearer(key), "predict")
    assert refused.value.retry_after_s == 1
    for _ in range(100):
        keyring.admit(bearer(other), "predict")
    clock.now += 0.5
    keyring.admit(bearer(key), "predict")
    with pytest.raises(TooManyRequestsError):
        keyring.admit(bearer(key), "predict")


def test_a_rate_below_one_says_how_long_to_wait(path: Path, clock: Clock) -> None:
    key = make_key(path, "rare", requests_per_s=0.1)
    keyring = Keyring(path, AccessSettings(), clock)
    keyring.admit(bearer(key), "predict")
    with pytest.raises(TooManyRequestsError) as refused:
        keyring.admit(bearer(key), "predict")
    assert refused.value.retry_after_s == 10


def test_what_a_key_has_used_up_stays_used_up_when_the_file_changes(path: Path, clock: Clock) -> None:
    key = make_key(path, "slow", requests_per_s=0.01, requests_at_once=1)
    keyring = Keyring(path, AccessSettings(), clock)
    with keyring.admit(bearer(key), "predict"):
        make_key(path, "another")
        clock.now += 1000
        with pytest.raises(TooManyRequestsError, match="at once"):
            keyring.admit(bearer(key), "predict")
    keyring.admit(bearer(key), "predict")
    make_key(path, "a third")
    clock.now += 1
    with pytest.raises(TooManyRequestsError, match="per second"):
        keyring.admit(bearer(key), "predict")


def test_requests_at_once_are_counted_until_they_end_however_they_end(path: Path, clock: Clock) -> None:
    key = make_key(path, "billing", requests_at_once=2)
    keyring = Keyring(path, AccessSettings(), clock)
    with (
        keyring.admit(bearer(key), "predict"),
        keyring.admit(bearer(key), "predict"),
        pytest.raises(TooManyRequestsError, match="more than 2 requests at once"),
    ):
        keyring.admit(bearer(key), "predict")
    with pytest.raises(ZeroDivisionError), keyring.admit(bearer(key), "predict"):
        raise ZeroDivisionError
    with keyring.admit(bearer(key), "predict"), keyring.admit(bearer(key), "predict"):
        pass


def test_when_the_file_breaks_nobody_gets_in_until_it_is_mended(
    path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    key = make_key(path, "billing")
    keyring = Keyring(path, AccessSettings(), clock)
    good = path.read_bytes()
    for broken in (b"", b"{}", None):
        if broken is None:
            path.unlink()
        else:
            path.write_bytes(broken)
        clock.now += 1
        with pytest.raises(KeysError, match=r"keys file|cannot be read"):
            keyring.admit(bearer(key), "predict")
        assert "nobody gets in" in caplog.text
    path.write_bytes(good)
    clock.now += 1
    assert keyring.admit(bearer(key), "predict").key.name == "billing"


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda file: file.update(format=2), "format"),
        (lambda file: file.update(surprise=1), "surprise"),
        (lambda file: file["keys"].append(file["keys"][0]), "one id to two keys"),
        (lambda file: file["keys"][0].update(scopes=["everything"]), "scopes"),
        (lambda file: file["keys"][0].update(sha256="short"), "sha256"),
        (lambda file: file["keys"][0].update(expires="2030-01-01T00:00:00"), "expires"),
        (lambda file: file["keys"][0].update(requests_per_s=0), "requests_per_s"),
        (lambda file: file["keys"][0].pop("created"), "created"),
    ],
)
def test_a_file_that_is_no_keys_file_is_refused_by_what_is_wrong(path: Path, edit: Edit, said: str) -> None:
    make_key(path, "billing")
    file = json.loads(path.read_text())
    edit(file)
    path.write_text(json.dumps(file))
    with pytest.raises(KeysError, match=said) as refused:
        Keyring(path, AccessSettings())
    assert "\n" not in str(refused.value)


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
