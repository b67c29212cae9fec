from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.environments import RIVALS
from benchmarks.servers import FUSED, Changes, own_config
from serve_app.config import PROJECT_ROOT

CONFIG: dict[str, Any] = {
    "http_options": {"host": "localhost", "port": 1313, "request_timeout_s": 60},
    "applications": [
        {
            "name": "class-prediction",
            "args": {"limits": {"max_rows": 9, "max_body_bytes": 8}},
            "deployments": [{"name": "Preprocessor", "num_replicas": 1}, {"name": "Classifier", "num_replicas": 1}],
        }
    ],
}


def test_changes_affect_only_what_they_name() -> None:
    changes = Changes(args={"limits": {"max_rows": 5}}, deployments={"Classifier": {"num_replicas": 2}})
    changed = own_config(CONFIG, changes, port=21300)
    assert changed["http_options"] == {"host": "127.0.0.1", "port": 21300, "request_timeout_s": 60}
    application = changed["applications"][0]
    assert application["args"] == {"limits": {"max_rows": 5, "max_body_bytes": 8}}
    assert application["deployments"] == [
        {"name": "Preprocessor", "num_replicas": 1},
        {"name": "Classifier", "num_replicas": 2},
    ]
    assert CONFIG["http_options"]["port"] == 1313  # the original is left alone


def test_the_fused_service_has_no_classifier_deployment() -> None:
    application = own_config(CONFIG, FUSED, port=1)["applications"][0]
    assert application["args"]["topology"] == "fused"
    assert [deployment["name"] for deployment in application["deployments"]] == ["Preprocessor"]


def test_without_changes_it_is_the_projects_config_on_another_port() -> None:
    config = yaml.safe_load((PROJECT_ROOT / "config" / "serve_config.yaml").read_text())
    assert own_config(config, Changes(), port=21300)["applications"] == config["applications"]


def pins(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==(\S+)", path.read_text(), re.MULTILINE))


@pytest.mark.parametrize("rival", sorted(path.parent.name for path in RIVALS.glob("*/requirements.txt")))
def test_every_rival_has_the_versions_that_made_the_components(rival: str) -> None:
    ours, theirs = pins(PROJECT_ROOT / "requirements/serve.txt"), pins(RIVALS / rival / "requirements.txt")
    for library in ("scikit-learn", "numpy", "scipy", "joblib"):
        assert theirs[library] == ours[library]
