"""Which rollout a deploy leads to; the rest needs a running service: tests/integration/test_release.py."""

from __future__ import annotations

from serve_app.operations.release import _after_deploy, _matches
from serve_app.serving.rollout import ModelReference, Rollout, RolloutDescription, Trial, UsedVersion

ONE = ModelReference(components="/one", digest="d1")
TWO = ModelReference(components="/two", digest="d2")
THREE = ModelReference(components="/three", digest="d3")
MOVED = ModelReference(components="/moved", digest="d2")
BEFORE = Rollout(serving=TWO, previous=ONE)


def test_the_version_that_served_is_the_one_to_go_back_to() -> None:
    assert _after_deploy(BEFORE, TWO, THREE, canary=None, shadow=None) == Rollout(serving=THREE, previous=TWO)


def test_a_version_that_moved_is_named_by_its_new_folder_and_the_previous_one_stays() -> None:
    assert _after_deploy(BEFORE, TWO, MOVED, canary=None, shadow=None) == Rollout(serving=MOVED, previous=ONE)


def test_a_trial_is_added_to_what_serves() -> None:
    trial = Trial(components="/three", digest="d3", share=0.25)
    canary = _after_deploy(Rollout(previous=ONE), TWO, THREE, canary=0.25, shadow=None)
    assert canary == Rollout(serving=TWO, previous=ONE, canary=trial)
    both = _after_deploy(canary, TWO, MOVED, canary=None, shadow=1.0)
    assert both == Rollout(serving=TWO, previous=ONE, canary=trial, shadow=Trial(components="/moved", digest="d2", share=1.0))


def test_a_replica_that_reads_another_folder_does_not_match() -> None:
    def described(reference: ModelReference) -> RolloutDescription:
        serving = UsedVersion(name="m", version="2.0.0", digest=str(reference.digest), components=reference.components)
        return RolloutDescription(serving=serving, previous=None, canary=None, shadow=None, rejected=(), unavailable=())

    assert _matches(described(MOVED), Rollout(serving=MOVED))
    assert not _matches(described(TWO), Rollout(serving=MOVED))
    assert not _matches(described(MOVED), Rollout(serving=MOVED, canary=Trial(components="/three", digest="d3", share=0.5)))
