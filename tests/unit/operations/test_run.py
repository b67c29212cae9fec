"""What the service is told to deploy, before anything is started."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from serve_app.api.key_file import make_key
from serve_app.config import PROJECT_ROOT, AccessSettings, Settings, load_settings
from serve_app.errors import KeysError, SettingsError
from serve_app.operations import environment as environments
from serve_app.operations import haproxy_front as front
from serve_app.operations.run import Overrides, _check_access, _check_config, _check_ray_token, _hand_to_front, _read_config

CONFIG = PROJECT_ROOT / "config" / "serve_config.yaml"


def test_without_overrides_the_config_is_deployed_as_it_stands() -> None:
    document = _read_config(CONFIG, Overrides())
    host, port, (settings,) = _check_config(CONFIG, document)
    assert (host, port) == ("127.0.0.1", 1313)
    assert settings == load_settings(document["applications"][0]["args"])
    (application,) = document["applications"]
    assert application["args"]["components"] == "model_components"
    assert {deployment["autoscaling_config"]["min_replicas"] for deployment in application["deployments"]} == {1}


def test_overrides_take_the_place_of_what_the_config_says_and_of_nothing_else(tmp_path: Path) -> None:
    keys_file = tmp_path / "keys.json"
    overridden = _read_config(CONFIG, Overrides(tmp_path, "0.0.0.0", 2, 8, keys_file))  # noqa: S104 - a test
    assert overridden["applications"][0]["args"]["access"].pop("keys_file") == str(keys_file)
    assert overridden["http_options"].pop("host") == "0.0.0.0"  # noqa: S104
    assert overridden["applications"][0]["args"].pop("components") == str(tmp_path)
    for deployment in overridden["applications"][0]["deployments"]:
        assert deployment["autoscaling_config"].pop("min_replicas") == 2
        assert deployment["autoscaling_config"].pop("max_replicas") == 8
    rest = _read_config(CONFIG, Overrides())
    del rest["http_options"]["host"], rest["applications"][0]["args"]["components"]
    del rest["applications"][0]["args"]["access"]["keys_file"]
    for deployment in rest["applications"][0]["deployments"]:
        del deployment["autoscaling_config"]["min_replicas"], deployment["autoscaling_config"]["max_replicas"]
    assert overridden == rest


@pytest.mark.parametrize("text", ["", "[]", "http_options: 7", "a: ["])
def test_a_config_of_another_shape_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"^\S+config\.yaml cannot be used: [^\n]*") as refused:
        _check_config(path, _read_config(path, Overrides(host="x")))
    assert "Error" in str(refused.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "a-machine"])  # noqa: S104 - a test
def test_beyond_loopback_without_keys_there_is_a_warning(host: str, tmp_path: Path) -> None:
    (warning,) = _check_access(host, [Settings()])
    assert warning.startswith(f"WARNING: {host} lets other machines in")
    make_key(tmp_path / "keys.json", "somebody")
    assert _check_access(host, [Settings(access=AccessSettings(keys_file=str(tmp_path / "keys.json")))]) == ()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost"])
def test_on_loopback_no_keys_are_nothing_to_warn_of(host: str) -> None:
    assert _check_access(host, [Settings()]) == ()


def test_a_keys_file_that_cannot_be_used_is_said_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match="cannot be read"):
        _check_access("127.0.0.1", [Settings(access=AccessSettings(keys_file=str(tmp_path / "nowhere")))])


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """os.environ as config/serve.env leaves it, put back afterwards."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    environments.set_environment(PROJECT_ROOT / "config" / "serve.env")
    changed: dict[str, str] = os.environ  # type: ignore[assignment]
    return changed


def test_rays_token_is_asked_for_and_a_warning_says_when_somebody_has_switched_it_off(environment: dict[str, str]) -> None:
    assert environment["RAY_AUTH_MODE"] == "token"
    assert _check_ray_token() == ()
    environment["RAY_AUTH_MODE"] = "disabled"
    (warning,) = _check_ray_token()
    assert warning.startswith("WARNING: RAY_AUTH_MODE is 'disabled'")


def document(**options: Any) -> dict[str, Any]:
    return {"http_options": {"host": "192.0.2.1", "port": 1313, **options}}


def test_alone_haproxy_listens_where_the_config_says_and_the_replicas_on_loopback(environment: dict[str, str]) -> None:
    deployed = document()
    assert not _hand_to_front(CONFIG, deployed, is_cluster=False)
    assert environment[front.HOST] == "192.0.2.1"
    assert deployed == document(host="127.0.0.1")


def test_in_a_cluster_the_replicas_listen_where_other_nodes_reach_them(environment: dict[str, str]) -> None:
    deployed = document()
    assert not _hand_to_front(CONFIG, deployed, is_cluster=True)
    assert deployed == document()
    assert front.HOST not in environment


def test_tls_is_haproxys_and_not_the_replicas(environment: dict[str, str]) -> None:
    deployed = document(ssl_certfile="config/tls.pem", ssl_keyfile="/key.pem", ssl_ca_certs=None)
    assert _hand_to_front(CONFIG, deployed, is_cluster=False)
    assert environment[front.CERTIFICATE] == str(PROJECT_ROOT / "config" / "tls.pem")
    assert environment[front.KEY] == "/key.pem"
    assert deployed == document(host="127.0.0.1", ssl_ca_certs=None)


def test_in_a_cluster_tls_is_for_the_environment_of_each_node_and_the_configs_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(
        SettingsError, match=r"set SERVE_APP_TLS_CERTFILE and SERVE_APP_TLS_KEYFILE for 'run' and for each 'join'"
    ):
        _hand_to_front(CONFIG, document(ssl_certfile="c.pem", ssl_keyfile="k.pem"), is_cluster=True)
    assert front.CERTIFICATE not in environment
    environment |= {front.CERTIFICATE: "c.pem", front.KEY: "k.pem"}
    assert _hand_to_front(CONFIG, document(), is_cluster=True)


@pytest.mark.parametrize("options", [{"ssl_certfile": "c.pem"}, {"ssl_certfile": "c", "ssl_keyfile": "k", "ssl_ca_certs": "a"}])
def test_a_tls_option_that_haproxy_is_not_given_is_refused(environment: dict[str, str], options: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="ssl_certfile and ssl_keyfile, both, and no other"):
        _hand_to_front(CONFIG, document(**options), is_cluster=False)


def test_without_haproxy_ray_serves_own_proxy_keeps_its_options(environment: dict[str, str]) -> None:
    environment["RAY_SERVE_ENABLE_HA_PROXY"] = "0"
    deployed = document(ssl_certfile="c.pem", ssl_keyfile="k.pem")
    assert _hand_to_front(CONFIG, deployed, is_cluster=False)
    assert deployed == document(ssl_certfile="c.pem", ssl_keyfile="k.pem")
