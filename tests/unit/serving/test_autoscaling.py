"""How many replicas are wanted, for how many requests of what size."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from serve_app.serving.autoscaling import BODY_BYTES, QueueAndWork

MIB = 2**20
WORK = 32 * MIB


def wanted(requests: float, *body_bytes: float, replicas: int = 1) -> float:
    """What the policy says to a deployment whose replicas are to have 128 requests each."""
    deployment = DeploymentID(name="Preprocessor", app_name="class-prediction")
    told = {ReplicaID(f"replica{place}", deployment): count for place, count in enumerate(body_bytes)}
    context = AutoscalingContext(
        deployment_id=deployment,
        deployment_name=deployment.name,
        app_name=deployment.app_name,
        current_num_replicas=replicas,
        target_num_replicas=1,
        running_replicas=list(told),
        total_num_requests=requests,
        total_queued_requests=0.0,
        aggregated_metrics={BODY_BYTES: told} if told else {},
        raw_metrics={},
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=100,
        policy_state={},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=0.0,
        config=AutoscalingConfig(target_ongoing_requests=128, max_replicas=100),
    )
    replicas_wanted, state = QueueAndWork(target_body_bytes=WORK)(context)
    assert state == {}
    return replicas_wanted


def test_small_requests_need_replicas_by_their_number() -> None:
    assert wanted(256, 256 * 1700) == 2


def test_large_requests_need_replicas_by_their_bytes() -> None:
    assert wanted(8, 8 * 17 * MIB) == pytest.approx(8 * 17 / 32)


def test_the_bytes_of_all_replicas_count() -> None:
    assert wanted(8, 3 * WORK, WORK, replicas=2) == 4


def test_one_client_with_one_huge_call_after_the_other_gets_no_second_replica() -> None:
    assert wanted(1, 8 * WORK) == 1


def test_without_reported_bytes_only_requests_count() -> None:
    assert wanted(192) == 1.5


@pytest.mark.parametrize(("requests", "replicas"), [(96, 1), (97, 2), (128, 2), (200, 2)])
def test_one_of_two_replicas_is_removed_if_the_other_would_be_three_quarters_busy(requests: float, replicas: int) -> None:
    assert math.ceil(wanted(requests, replicas=2)) == replicas


def test_before_the_first_replica_the_target_stays() -> None:
    assert wanted(500, replicas=0) == 1


@given(requests=st.floats(0, 1e6), told=st.lists(st.floats(0, 1e12), max_size=4), replicas=st.integers(1, 9))
def test_never_fewer_than_the_queue_needs_nor_more_than_there_are_replicas_or_requests(
    requests: float, told: list[float], replicas: int
) -> None:
    by_queue = requests / 128
    assert by_queue <= wanted(requests, *told, replicas=replicas) <= max(by_queue, requests, replicas)


def test_ray_serve_sends_it_to_its_controller_which_does_not_know_the_package() -> None:
    policy = AutoscalingPolicy(
        policy_function="serve_app.serving.autoscaling:QueueAndWork", policy_kwargs={"target_body_bytes": WORK}
    )
    sent = policy.get_serialized_policy_def()
    controller = "import pickle, sys; sys.modules['serve_app'] = None; print(vars(pickle.load(sys.stdin.buffer)(7)))"
    done = subprocess.run([sys.executable, "-c", controller], input=sent, capture_output=True, check=False)
    assert done.stdout.decode().strip() == str(vars(QueueAndWork(7))), done.stderr
