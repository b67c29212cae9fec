"""What the service is told to deploy, before anything is started."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest

from serve_app.api.key_file import make_key
from serve_app.config import PROJECT_ROOT
from serve_app.errors import KeysError, SettingsError
from serve_app.operations import haproxy_config as front
from serve_app.operations.environment import set_environment
from serve_app.operations.run import _check_access, _check_applications, _check_ray_token, _move_options_to_haproxy
from serve_app.operations.serve_config import Overrides, ServeConfig, read_serve_config

CONFIG = PROJECT_ROOT / "config" / "serve_config.yaml"


def listening(host: str, keys_file: Path | None = None) -> ServeConfig:
    return read_serve_config(CONFIG).overridden(Overrides(host=host, keys_file=keys_file))


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "a-machine"])  # noqa: S104 - a test
def test_beyond_loopback_without_keys_there_is_a_warning(host: str, tmp_path: Path) -> None:
    (warning,) = _check_access(listening(host))
    assert warning.startswith(f"WARNING: {host} can be reached from other machines")
    make_key(tmp_path / "keys.json", "somebody")
    assert _check_access(listening(host, tmp_path / "keys.json")) == ()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost"])
def test_on_loopback_no_keys_are_nothing_to_warn_of(host: str) -> None:
    assert _check_access(listening(host)) == ()


def test_a_keys_file_that_cannot_be_used_is_said_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match="cannot be read"):
        _check_access(listening("127.0.0.1", tmp_path / "nowhere"))


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """os.environ as config/serve.env leaves it, put back afterwards."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    set_environment(PROJECT_ROOT / "config" / "serve.env")
    changed: dict[str, str] = os.environ  # type: ignore[assignment]
    return changed


def test_rays_token_is_asked_for_and_a_warning_says_when_somebody_has_switched_it_off(environment: dict[str, str]) -> None:
    assert environment["RAY_AUTH_MODE"] == "token"
    assert _check_ray_token() == ()
    environment["RAY_AUTH_MODE"] = "disabled"
    (warning,) = _check_ray_token()
    assert warning.startswith("WARNING: RAY_AUTH_MODE is 'disabled'")


def config_with(**options: Any) -> ServeConfig:
    config = read_serve_config(CONFIG)
    options = {"host": "192.0.2.1", "port": 1313, **options}
    return config.with_document({**config.document, "http_options": options})


def http_options(config: ServeConfig) -> dict[str, Any]:
    options: dict[str, Any] = config.document["http_options"]
    return options


def test_alone_haproxy_listens_where_the_config_says_and_the_replicas_on_loopback(environment: dict[str, str]) -> None:
    config = config_with()
    deployed = _move_options_to_haproxy(config, is_cluster=False)
    assert environment[front.HOST] == "192.0.2.1"
    assert http_options(deployed) == {"host": "127.0.0.1", "port": 1313}
    assert config == config_with()


def test_in_a_cluster_the_replicas_listen_where_other_nodes_reach_them(environment: dict[str, str]) -> None:
    assert _move_options_to_haproxy(config_with(), is_cluster=True) == config_with()
    assert front.HOST not in environment


def test_tls_is_haproxys_and_not_the_replicas(environment: dict[str, str]) -> None:
    config = config_with(ssl_certfile="config/tls.pem", ssl_keyfile="/key.pem", ssl_ca_certs=None)
    deployed = _move_options_to_haproxy(config, is_cluster=False)
    assert environment[front.CERTIFICATE] == str(PROJECT_ROOT / "config" / "tls.pem")
    assert environment[front.KEY] == "/key.pem"
    assert http_options(deployed) == {"host": "127.0.0.1", "port": 1313, "ssl_ca_certs": None}


def test_in_a_cluster_tls_is_for_the_environment_of_each_node_and_the_configs_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(
        SettingsError, match=r"set SERVE_APP_TLS_CERTFILE and SERVE_APP_TLS_KEYFILE for 'run' and for each 'join'"
    ):
        _move_options_to_haproxy(config_with(ssl_certfile="c.pem", ssl_keyfile="k.pem"), is_cluster=True)
    assert front.CERTIFICATE not in environment
    environment |= {front.CERTIFICATE: "c.pem", front.KEY: "k.pem"}
    assert _move_options_to_haproxy(config_with(), is_cluster=True) == config_with()


@pytest.mark.parametrize("options", [{"ssl_certfile": "c.pem"}, {"ssl_certfile": "c", "ssl_keyfile": "k", "ssl_ca_certs": "a"}])
def test_a_tls_option_that_haproxy_is_not_given_is_refused(environment: dict[str, str], options: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="both ssl_certfile and ssl_keyfile, and no other"):
        _move_options_to_haproxy(config_with(**options), is_cluster=False)


def test_without_haproxy_ray_serves_own_proxy_keeps_its_options(environment: dict[str, str]) -> None:
    environment["RAY_SERVE_ENABLE_HA_PROXY"] = "0"
    config = config_with(ssl_certfile="c.pem", ssl_keyfile="k.pem")
    assert _move_options_to_haproxy(config, is_cluster=False) == config


def test_a_certificate_for_haproxy_is_not_ignored_where_there_is_none(environment: dict[str, str]) -> None:
    environment |= {"RAY_SERVE_ENABLE_HA_PROXY": "0", front.CERTIFICATE: "c.pem", front.KEY: "k.pem"}
    with pytest.raises(SettingsError, match="SERVE_APP_TLS_CERTFILE needs HAProxy"):
        _move_options_to_haproxy(config_with(), is_cluster=False)


def test_the_fused_topology_has_no_classifier_to_deploy() -> None:
    config = read_serve_config(CONFIG)
    _check_applications(config)
    document = copy.deepcopy(config.document)
    document["applications"][0]["args"]["topology"] = "fused"
    with pytest.raises(SettingsError, match="the fused topology has no Classifier"):
        _check_applications(config.with_document(document))
