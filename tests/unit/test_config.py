from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from serve_app.config import PROJECT_ROOT, Settings, load_settings, resolve_path
from serve_app.errors import SettingsError


def test_the_committed_config_can_be_used() -> None:
    config = yaml.safe_load((PROJECT_ROOT / "config" / "serve_config.yaml").read_text())
    assert config["http_options"]["port"] == 1313
    assert isinstance(load_settings(config["applications"][0]["args"]), Settings)


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ({"component": "x"}, "component"),
        ({"limits": {"max_row": 1}}, "max_row"),
        ({"limits": {"max_rows": 0}}, "max_rows"),
        ({"limits": {"max_rows": "many"}}, "max_rows"),
        ({"classifier_batches": {"wait_timeout_s": -1}}, "wait_timeout_s"),
        ({"preprocessor_batches": {"max_rows": 100_000}}, "max_rows"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_by_name(args: dict[str, object], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        load_settings(args)


def test_relative_paths_start_at_the_project_and_absolute_ones_stand() -> None:
    assert resolve_path("model_components") == PROJECT_ROOT / "model_components"
    assert resolve_path("/somewhere") == Path("/somewhere")
