"""docker-compose.yaml: an entry, a head, two workers, Redis and Prometheus; what they answer, measure and survive.

The cluster needs a minute to start, so all tests share one. Each leaves it whole; the last one takes it down.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from support.containers import IMAGE, Compose, docker, inspect, kill_main_process, mountable
from support.scoring import score
from support.serving import wait_until
from support.steady_load import SteadyLoad

from serve_app.components.compiled import Components
from serve_app.config import PROJECT_ROOT
from serve_app.training.train import train

pytestmark = pytest.mark.docker

DASHBOARD = PROJECT_ROOT / "monitoring" / "grafana" / "dashboards" / "class-prediction.json"
NODES = 3
SCRAPES_S = 180  # many of Prometheus' rounds
REPLICAS_S = 60  # to start them elsewhere
ROLL_OUT_S = 120  # after a fault, on a machine that does other things too
CLIENTS = 4

Tell = Callable[[str], None]


@pytest.fixture(scope="module")
def model() -> Iterator[tuple[Path, Components]]:
    """One that was trained here: its manifest tells all that metrics can tell."""
    draft, _ = train(PROJECT_ROOT / "data" / "train.csv", target="y", method="two-stage")
    with mountable(draft) as mounted:
        yield mounted


@pytest.fixture(scope="module")
def cluster(images: dict[str, str], model: tuple[Path, Components], tell: Tell) -> Iterator[Compose]:
    compose = Compose(f"{IMAGE}-test", images, {"MODEL_COMPONENTS": str(model[0])})
    services = ["entry", "head", "worker", "redis", "prometheus", *(["grafana"] if "GRAFANA_IMAGE" in images else [])]
    compose("down", "-v", "--remove-orphans")
    start = time.monotonic()
    try:
        compose("up", "-d", "--wait", "--wait-timeout=300", *services)
        tell(f"the cluster is healthy after {time.monotonic() - start:.0f} s")
        yield compose
    finally:
        compose("down", "-v", "--remove-orphans")


@pytest.fixture
def load(cluster: Compose, model: tuple[Path, Components], example: dict[str, Any]) -> SteadyLoad:
    """The example row from a few clients: there to notice faults, not to find limits."""
    _, components = model
    expected = {components.version_label: score(components, [example])}
    return SteadyLoad(cluster.url, [example], expected, clients=CLIENTS, pause_s=0.02, timeout_s=30)


def test_ray_counts_the_nodes_and_their_memory_is_told(cluster: Compose, tell: Tell) -> None:
    assert cluster.alive_nodes() == NODES
    for service in ("head", "worker"):
        used = docker("stats", "--no-stream", "--format={{.MemUsage}}", cluster.container(service)).split(" / ")[0]
        tell(f"the {service} takes {used} of memory")


def test_nothing_is_published_but_on_this_machine(cluster: Compose) -> None:
    published = {
        service: {
            (port, binding["HostIp"], binding["HostPort"])
            for port, bindings in inspect(cluster.container(service))["NetworkSettings"]["Ports"].items()
            for binding in bindings or []
        }
        for service in ("entry", "head", "worker", "redis", "prometheus")
    }
    local = "127.0.0.1"
    assert published == {
        "entry": {("1313/tcp", local, cluster.ports["HTTP_PORT"])},
        "head": {("8265/tcp", local, cluster.ports["DASHBOARD_PORT"])},
        "worker": set(),
        "redis": set(),
        "prometheus": {("9090/tcp", local, cluster.ports["PROMETHEUS_PORT"])},
    }
    assert inspect(f"{cluster.project}_ray")["Internal"] is True


def test_only_the_head_reaches_redis_which_asks_for_a_password(cluster: Compose) -> None:
    redis = cluster.container("redis")
    (members,) = json.loads(docker("network", "inspect", f"{cluster.project}_redis"))
    assert {member["Name"] for member in members["Containers"].values()} == {redis, cluster.container("head")}
    assert "NOAUTH" in docker("exec", redis, "redis-cli", "ping")


def test_rays_dashboard_asks_for_the_clusters_token_and_shows_the_replicas_on_the_workers(cluster: Compose) -> None:
    url = f"http://127.0.0.1:{cluster.ports['DASHBOARD_PORT']}/api/serve/applications/"
    assert requests.get(url, timeout=30).status_code == 401
    token = cluster.in_head("ray", "get-auth-token")
    told = requests.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=30).json()
    application = told["applications"]["class-prediction"]
    assert application["status"] == "RUNNING"
    workers = {cluster.address("worker", 1), cluster.address("worker", 2)}
    for name in ("Preprocessor", "Classifier"):
        assert {replica["node_ip"] for replica in application["deployments"][name]["replicas"]} == workers


def test_prometheus_reaches_every_node_and_takes_the_alerts(cluster: Compose) -> None:
    def targets() -> list[tuple[str, str]]:
        found = requests.get(f"{cluster.prometheus_url}/api/v1/targets", timeout=30).json()["data"]["activeTargets"]
        return sorted((target["labels"]["node"], target["health"]) for target in found)

    expected = [("ray-head", "up"), ("worker", "up"), ("worker", "up")]
    wait_until(lambda: targets() == expected, f"{expected}, not {targets()},", SCRAPES_S)
    (group,) = requests.get(f"{cluster.prometheus_url}/api/v1/rules", timeout=30).json()["data"]["groups"]
    assert len(group["rules"]) > 8
    wait_until(lambda: cluster.query("ALERTS") == [], "no alert", SCRAPES_S)


def test_the_alerts_fire_when_they_should_and_only_then(cluster: Compose) -> None:
    prometheus = cluster.container("prometheus")
    for command in (("check", "config", "/etc/prometheus/prometheus.yml"), ("test", "rules", "/tests/alerts_test.yml")):
        said = docker(
            "run",
            "--rm",
            "--entrypoint=promtool",
            f"--volumes-from={prometheus}:ro",
            f"--volume={PROJECT_ROOT / 'tests' / 'docker' / 'alerts_test.yml'}:/tests/alerts_test.yml:ro",
            cluster.images["PROMETHEUS_IMAGE"],
            *command,
        )
        assert "SUCCESS" in said
        assert "FAILED" not in said


def test_every_query_of_the_dashboard_returns_data(cluster: Compose, example: dict[str, Any]) -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    queries = [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]
    assert len(queries) > 25

    def without_data() -> list[str]:
        """Titles of the panels with a query that gives nothing; sends some of everything before it asks."""
        cluster.predict(json.dumps([example, {**example, "x5": "blursday", "x91": None}]).encode())
        cluster.predict(json.dumps([{**example, "x53": "abc"}]).encode())
        return [
            title
            for title, query in queries
            if not [
                series
                for series in cluster.query(query.replace("$__rate_interval", "2m"))
                if float(series["value"][1]) == float(series["value"][1])  # no NaN
            ]
        ]

    wait_until(lambda: without_data() == [], "data in each panel", SCRAPES_S)


def test_a_worker_that_is_stopped_hands_its_replicas_over_and_loses_nothing(
    cluster: Compose, load: SteadyLoad, tell: Tell
) -> None:
    leaver = cluster.container("worker", 2)
    with load:
        docker("stop", "--time=60", leaver)
        wait_until(lambda: cluster.alive_nodes() == NODES - 1, "a node less", REPLICAS_S)
        docker("start", leaver)
        cluster.wait_until_whole(NODES)
    outcome = load.take()
    tell(f"a worker stopped and started under load: {outcome}")
    assert inspect(leaver)["State"]["Running"]
    assert outcome.answered > 100
    assert outcome.lost == 0


@pytest.mark.parametrize("service", ["worker", "redis", "head"])
def test_a_container_that_is_killed_costs_at_most_what_it_was_answering(
    cluster: Compose, load: SteadyLoad, tell: Tell, service: str
) -> None:
    others = {cluster.container(*one) for one in (("worker", 1), ("worker", 2), ("entry", 1))} - {cluster.container(service)}
    started = {name: inspect(name)["State"]["StartedAt"] for name in others}
    killed = cluster.container(service)
    restarts = inspect(killed)["RestartCount"]
    with load:
        kill_main_process(killed)
        start = time.monotonic()
        wait_until(lambda: inspect(killed)["RestartCount"] > restarts, "a restart", REPLICAS_S)
        wait_until(cluster.can_deploy, "a roll-out", ROLL_OUT_S)
        rolled_out_s = time.monotonic() - start
        cluster.wait_until_whole(NODES)
    outcome = load.take()
    tell(f"{service} killed under load: {outcome}; a roll-out works again after {rolled_out_s:.0f} s")
    assert outcome.wrong == 0
    assert outcome.lost <= CLIENTS  # at most one request of each client was on its way
    assert {name: inspect(name)["State"]["StartedAt"] for name in others} == started


def test_an_entry_that_is_killed_is_back_at_once(cluster: Compose, load: SteadyLoad, tell: Tell) -> None:
    entry = cluster.container("entry")
    with load:
        kill_main_process(entry)
        wait_until(lambda: inspect(entry)["RestartCount"] == 1, "a restart", REPLICAS_S)
        wait_until(lambda: cluster.is_healthy(entry), "a healthy entry", REPLICAS_S)
    outcome = load.take()
    tell(f"the entry killed under load: {outcome}; nobody was answered for {outcome.longest_pause_s:.1f} s")
    assert outcome.wrong == 0


def test_a_partitioned_worker_is_dropped_and_comes_back(cluster: Compose, load: SteadyLoad, tell: Tell) -> None:
    network, cut_off = f"{cluster.project}_ray", cluster.container("worker", 2)
    with load:
        docker("network", "disconnect", network, cut_off)
        start = time.monotonic()
        wait_until(lambda: cluster.alive_nodes() == NODES - 1, "a node less", 120)
        dropped_s = time.monotonic() - start
        docker("network", "connect", "--alias=worker", network, cut_off)
        cluster.wait_until_whole(NODES)
    outcome = load.take()
    tell(f"a worker partitioned under load: dropped after {dropped_s:.0f} s; {outcome}")
    assert outcome.wrong == 0
    assert outcome.lost <= CLIENTS  # of each at most the request that was on its way to the worker


def test_down_leaves_nothing(cluster: Compose, tell: Tell) -> None:
    start = time.monotonic()
    cluster("down", "-v", "--remove-orphans")
    tell(f"the cluster is gone after {time.monotonic() - start:.0f} s")
    mine = f"--filter=label=com.docker.compose.project={cluster.project}"
    assert docker("ps", "-aq", mine) == docker("network", "ls", "-q", mine) == docker("volume", "ls", "-q", mine) == ""
