"""What the service is told to deploy, before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.config import PROJECT_ROOT
from serve_app.errors import SettingsError
from serve_app.server import Overrides, _check_config, _read_config

CONFIG = PROJECT_ROOT / "config" / "serve_config.yaml"


def test_without_overrides_the_config_is_deployed_as_it_stands() -> None:
    document = _read_config(CONFIG, Overrides())
    assert _check_config(CONFIG, document) == ("127.0.0.1", 1313, [PROJECT_ROOT / "model_components"])
    (application,) = document["applications"]
    assert application["args"]["components"] == "model_components"
    assert {deployment["autoscaling_config"]["min_replicas"] for deployment in application["deployments"]} == {1}


def test_overrides_take_the_place_of_what_the_config_says_and_of_nothing_else(tmp_path: Path) -> None:
    overridden = _read_config(CONFIG, Overrides(tmp_path, "0.0.0.0", 2, 8))  # noqa: S104 - a test
    assert overridden["http_options"].pop("host") == "0.0.0.0"  # noqa: S104
    assert overridden["applications"][0]["args"].pop("components") == str(tmp_path)
    for deployment in overridden["applications"][0]["deployments"]:
        assert deployment["autoscaling_config"].pop("min_replicas") == 2
        assert deployment["autoscaling_config"].pop("max_replicas") == 8
    rest = _read_config(CONFIG, Overrides())
    del rest["http_options"]["host"], rest["applications"][0]["args"]["components"]
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
