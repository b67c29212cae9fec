"""The keys that are valid now, and what each may do."""

from __future__ import annotations

import hmac
from datetime import timedelta
from pathlib import Path

import pytest

from serve_app.api.key_file import Key, make_key, read_keys, revoke_key
from serve_app.api.keyring import Keyring
from serve_app.config import AccessSettings
from serve_app.errors import ForbiddenError, KeysError, TooManyRequestsError, UnauthorizedError


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


def test_a_file_that_has_not_changed_is_not_read_again(path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    key = make_key(path, "billing")
    keyring = Keyring(path, AccessSettings(), clock)
    read: list[Path] = []

    def note_and_read(path: Path) -> tuple[Key, ...]:
        read.append(path)
        return read_keys(path)

    monkeypatch.setattr("serve_app.api.keyring.read_keys", note_and_read)
    for _ in range(3):
        clock.now += 1
        keyring.admit(bearer(key), "predict")
    assert read == []
    make_key(path, "another")
    for _ in range(3):
        clock.now += 1
        keyring.admit(bearer(key), "predict")
    assert read == [path]


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
    clock.now += 2.5
    with pytest.raises(TooManyRequestsError) as refused:
        keyring.admit(bearer(key), "predict")
    assert refused.value.retry_after_s == 8  # 7.5, rounded up


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
        pytest.raises(TooManyRequestsError, match="more than 2 requests at once") as refused,
    ):
        keyring.admit(bearer(key), "predict")
    assert refused.value.retry_after_s == 1
    with pytest.raises(ZeroDivisionError), keyring.admit(bearer(key), "predict"):
        raise ZeroDivisionError
    with (
        keyring.admit(bearer(key), "predict"),
        keyring.admit(bearer(key), "predict"),
        pytest.raises(TooManyRequestsError),
    ):
        keyring.admit(bearer(key), "predict")


def test_when_the_file_breaks_every_request_is_rejected_until_it_is_mended(
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
        assert caplog.messages[-1].startswith(f"every request is rejected: {path}: ")
    path.write_bytes(good)
    clock.now += 1
    assert keyring.admit(bearer(key), "predict").key.name == "billing"
