"""The image alone: ``docker build`` and ``docker run`` as docs/running.md has them, and hardened."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import requests
import yaml
from support.certificates import write_certificate
from support.containers import EXAMPLE, EXPECTED, IMAGE, docker, inspect, mountable
from support.documents import blocks, find_block
from support.serving import free_port, wait_until

from serve_app.components.compiled import Components
from serve_app.config import PROJECT_ROOT
from serve_app.exercise.published_model import draft_reference, load_published_model

pytestmark = pytest.mark.docker

MAX_BYTES = 900_000_000
HARDENED = ("--read-only", "--tmpfs=/tmp:exec,mode=1777,size=1g", "--cap-drop=ALL", "--security-opt=no-new-privileges")


@contextmanager
def running(*options: str) -> Iterator[tuple[str, str]]:
    """Name and URL of a container of the image that is healthy."""
    port, name = free_port(), f"{IMAGE}-test-{free_port()}"
    docker("run", "-d", "--name", name, "-p", f"127.0.0.1:{port}:1313", *options, IMAGE)

    def is_healthy() -> bool:
        state = inspect(name)["State"]
        assert state["Running"], docker("logs", name)
        return bool(state["Health"]["Status"] == "healthy")

    try:
        wait_until(is_healthy, "a healthy container", 180)
        yield name, f"http://127.0.0.1:{port}"
    finally:
        docker("rm", "-f", "-v", name)


def in_image(image: str, script: str) -> list[str]:
    """The lines that a shell script prints in the image, as root."""
    return docker("run", "--rm", "--user=0", "--entrypoint=sh", image, "-c", script).splitlines()


def takes_requests(url: str) -> bool:
    try:
        requests.get(f"{url}/health", timeout=5)
    except requests.RequestException:
        return False
    return True


def test_the_documents_build_and_run_the_image_by_the_ordinary_commands() -> None:
    lines = find_block("docs/running.md", "sh", "docker build").splitlines()
    assert lines == [f"docker build -t {IMAGE} .", f"docker run --rm -p 1313:1313 {IMAGE}"]


def test_the_image_says_what_it_is_and_who_runs_in_it(image: str) -> None:
    found = inspect(image)
    assert found["Size"] < MAX_BYTES
    config = found["Config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["python", "-m", "serve_app"]
    assert config["ExposedPorts"] == {"1313/tcp": {}}
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    told = {"title": project["name"], "description": project["description"], "version": project["version"]}
    assert config["Labels"].items() >= {f"org.opencontainers.image.{label}": value for label, value in told.items()}.items()


def test_the_image_holds_what_serves_and_nothing_else(image: str) -> None:
    assert in_image(image, "ls") == ["config", "model_components", "serve_app"]
    assert in_image(image, "for tool in gcc cc make git curl; do command -v $tool; done; true") == []
    assert in_image(image, "find /tmp -mindepth 1; find / -xdev -name .cache") == []
    assert in_image(image, "find /opt/venv /app -name tests -o -name train.csv -o -name pip -o -name pytest") == []
    assert in_image(image, "find /app -not -user root") == []  # the service cannot change itself


def test_keys_and_certificates_beside_the_config_stay_out_of_the_image(tmp_path: Path) -> None:
    context, taken = tmp_path / "context", tmp_path / "taken"
    wanted = {
        "requirements/serve.txt",
        "config/serve.env",
        "config/serve_config.yaml",
        "serve_app/app.py",
        "model_components/model.pkl",
    }
    for name in (*wanted, "config/keys.json", "config/tls.pem", "config/old/keys.json", "data/train.csv", ".git/config"):
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).touch()
    shutil.copy(PROJECT_ROOT / ".dockerignore", context)
    (context / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    docker("build", f"--output=type=local,dest={taken}", context)
    assert {str(path.relative_to(taken)) for path in taken.rglob("*") if path.is_file()} == wanted


def test_the_container_answers_and_a_stop_signal_lets_it_finish(image: str, tell: Callable[[str], None]) -> None:
    start = time.monotonic()
    with running() as (name, url):
        tell(f"a container is healthy after {time.monotonic() - start:.0f} s")
        body = EXAMPLE.read_bytes()
        ((_, printed),) = next(blocks("README.md", "console")).examples()
        assert requests.post(f"{url}/predict", data=body, timeout=30).json() == json.loads(printed)
        tell(f"it takes {docker('stats', '--no-stream', '--format={{.MemUsage}}', name).split(' / ')[0]} of memory")

        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        with closing(socket.create_connection(address, timeout=60)) as client:
            client.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:99])
            wait_until(lambda: requests.get(f"{url}/health", timeout=5).status_code == 200, "an answer to a later request", 30)
            docker("kill", "--signal=TERM", name)
            wait_until(lambda: not takes_requests(url), "a closed port", 30)
            client.sendall(body[99:])
            assert b'"probability_positiveclass":%s,' % str(EXPECTED).encode() in client.makefile("rb").read()
        assert docker("wait", name, timeout_s=60) == "0"
        assert docker("logs", name).endswith("Stopped.")


def test_hardened_it_answers_the_same_with_components_that_are_mounted_over(image: str, components: Components) -> None:
    with mountable(draft_reference(load_published_model(), "reject")) as (folder, mounted):
        assert mounted.digest != components.digest
        with running(*HARDENED, f"--volume={folder}:/app/model_components:ro") as (name, url):
            host = inspect(name)["HostConfig"]
            assert (host["ReadonlyRootfs"], host["CapDrop"]) == (True, ["ALL"])
            assert requests.get(f"{url}/model", timeout=30).json()["digest"] == mounted.digest
            (row,) = json.loads(EXAMPLE.read_bytes())
            answer = requests.post(f"{url}/predict", json=row, timeout=30).json()
            assert answer[0]["probability_positiveclass"] == EXPECTED
            refused = requests.post(f"{url}/predict", json={**row, "x5": "blursday"}, timeout=30).json()
            assert refused["error"]["code"] == "unknown_category"
            docker("stop", name)
            assert inspect(name)["State"]["ExitCode"] == 0


def test_with_tls_it_is_healthy_and_docker_stop_ends_it_in_time_while_a_body_trickles(image: str) -> None:
    tls = [f"--env=SERVE_APP_TLS_{name}FILE=/tls/{file}.pem" for name, file in (("CERT", "certificate"), ("KEY", "key"))]
    with TemporaryDirectory() as folder, ExitStack() as stack:
        certificate, key = write_certificate(Path(folder))
        for path in (Path(folder), certificate, key):
            path.chmod(0o755)  # the image's user has to read them
        name, url = stack.enter_context(running(f"--volume={folder}:/tls:ro", *tls))
        url = url.replace("http", "https")
        assert requests.get(f"{url}/ready", verify=str(certificate), timeout=30).status_code == 200
        context = ssl.create_default_context(cafile=str(certificate))
        with (
            socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=60) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as client,
        ):
            client.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n[")
            assert requests.get(f"{url}/health", verify=str(certificate), timeout=30).status_code == 200
            with ThreadPoolExecutor(max_workers=1) as pool:
                stopping = pool.submit(docker, "stop", name)  # after ten seconds Docker kills it
                with suppress(OSError):
                    while not stopping.done():  # never idle, never done
                        client.sendall(b" ")
                        time.sleep(0.5)
                stopping.result()
        assert inspect(name)["State"]["ExitCode"] == 0


def test_haproxy_is_started_by_our_program_where_the_manifest_for_kubernetes_says_they_are(image: str) -> None:
    (document,) = yaml.safe_load_all((PROJECT_ROOT / "deploy" / "kuberay" / "rayservice.yaml").read_text(encoding="utf-8"))
    (container,) = document["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"]
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    environment = [f"--env={name}={value}" for name, value in variables.items()]
    said = docker("run", "--rm", *environment, f"--entrypoint={variables['RAY_SERVE_HAPROXY_BINARY_PATH']}", image, "-v")
    assert said.startswith("HAProxy version 2.8")
