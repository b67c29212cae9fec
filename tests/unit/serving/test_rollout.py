"""The formats of ``user_config`` and of a replica's description of itself."""

from __future__ import annotations

import pickle

import msgspec
import pytest

from serve_app.errors import SettingsError
from serve_app.serving.rollout import (
    ModelReference,
    RejectedVersion,
    Rollout,
    RolloutDescription,
    Trial,
    TriedVersion,
    UsedVersion,
    read_rollout,
)

DESCRIPTION = RolloutDescription(
    serving=UsedVersion(name="m", version="2.0.0", digest="d2", components="/two"),
    previous=None,
    canary=TriedVersion(name="m", version="3.0.0", digest="d3", components="/three", share=0.25),
    shadow=None,
    rejected=(RejectedVersion(components="/x", digest=None, reason="gone"),),
    unavailable=("previous",),
)


def test_a_description_crosses_processes_and_is_plain_json() -> None:
    assert pickle.loads(pickle.dumps(DESCRIPTION)) == DESCRIPTION  # noqa: S301 - as Ray Serve's handles do
    assert msgspec.to_builtins(DESCRIPTION) == {
        "serving": {"name": "m", "version": "2.0.0", "digest": "d2", "components": "/two"},
        "previous": None,
        "canary": {"name": "m", "version": "3.0.0", "digest": "d3", "components": "/three", "share": 0.25},
        "shadow": None,
        "rejected": ({"components": "/x", "digest": None, "reason": "gone"},),
        "unavailable": ("previous",),
    }


def test_a_rollout_names_each_version_once_whatever_its_roles_are() -> None:
    two = ModelReference(components="/two", digest="d2")
    rollout = Rollout(
        serving=two, shadow=Trial(components="/two", digest="d2", share=1.0), previous=ModelReference(components="/one")
    )
    assert rollout.references() == {two, ModelReference(components="/one")}


def test_no_user_config_is_the_version_of_the_settings() -> None:
    assert read_rollout(None) == read_rollout({}) == Rollout()


@pytest.mark.parametrize(
    ("user_config", "named"),
    [({"serves": {}}, "serves"), ({"canary": {"components": "x", "share": 2}}, "share"), ({"serving": "two"}, "serving")],
)
def test_an_invalid_user_config_is_refused_by_name(user_config: dict[str, object], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        read_rollout(user_config)
