"""The Ray Serve config file: what is in it, and how mistakes in it are reported."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from serve_app.config import PROJECT_ROOT, load_settings
from serve_app.errors import SettingsError
from serve_app.operations.serve_config import Overrides, read_serve_config

CONFIG = PROJECT_ROOT / "config" / "serve_config.yaml"


def edited(folder: Path, old: str, new: str) -> tuple[Path, int]:
    """A copy of the committed config with one edit, and the number of the last line that the edit wrote."""
    content = CONFIG.read_text()
    assert old in content
    path = folder / "config.yaml"
    path.write_text(content.replace(old, new, 1))
    return path, content[: content.index(old)].count("\n") + new.count("\n") + 1


def check(path: Path, overrides: Overrides = Overrides()) -> None:  # noqa: B008 - it is immutable
    read_serve_config(path).overridden(overrides).check_ray_options()


def test_the_committed_config_is_read_and_has_nothing_that_ray_serve_does_not_know() -> None:
    config = read_serve_config(CONFIG)
    config.check_ray_options()
    assert (config.http_options.host, config.http_options.port) == ("127.0.0.1", 1313)
    (application,) = config.applications
    assert application.args == load_settings(config.document["applications"][0]["args"])
    assert application.args.components == "model_components"
    assert [deployment.name for deployment in application.deployments] == ["Preprocessor", "Classifier"]


def test_overrides_replace_what_the_config_says_and_nothing_else(tmp_path: Path) -> None:
    keys_file = tmp_path / "keys.json"
    assert read_serve_config(CONFIG).overridden(Overrides()) == read_serve_config(CONFIG).overridden(Overrides())
    config = read_serve_config(CONFIG).overridden(Overrides(tmp_path, "0.0.0.0", 2, 8, keys_file))  # noqa: S104 - a test
    assert config.http_options.host == "0.0.0.0"  # noqa: S104
    assert config.applications[0].args.components == str(tmp_path)
    assert config.applications[0].args.access.keys_file == str(keys_file)
    overridden, rest = config.document, read_serve_config(CONFIG).document
    assert overridden["applications"][0]["args"]["access"].pop("keys_file") == str(keys_file)
    assert overridden["http_options"].pop("host") == "0.0.0.0"  # noqa: S104
    assert overridden["applications"][0]["args"].pop("components") == str(tmp_path)
    for deployment in overridden["applications"][0]["deployments"]:
        assert deployment["autoscaling_config"].pop("min_replicas") == 2
        assert deployment["autoscaling_config"].pop("max_replicas") == 8
    del rest["http_options"]["host"], rest["applications"][0]["args"]["components"]
    del rest["applications"][0]["args"]["access"]["keys_file"]
    for deployment in rest["applications"][0]["deployments"]:
        del deployment["autoscaling_config"]["min_replicas"], deployment["autoscaling_config"]["max_replicas"]
    assert overridden == rest


def test_an_override_works_where_the_config_has_no_such_section(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "http_options: {host: 127.0.0.1, port: 1}\napplications: [{import_path: a:b, args: null, deployments: [{name: x}]}]\n"
    )
    with pytest.raises(SettingsError, match=r"line 2: applications\[0\]\.args: Expected `object`, got `null`"):
        read_serve_config(path)
    path.write_text("http_options: {host: 127.0.0.1, port: 1}\napplications: [{import_path: a:b, deployments: [{name: x}]}]\n")
    config = read_serve_config(path).overridden(Overrides(keys_file=tmp_path, min_replicas=2))
    assert config.applications[0].args.access.keys_file == str(tmp_path)
    assert config.document["applications"][0]["deployments"] == [{"name": "x", "autoscaling_config": {"min_replicas": 2}}]


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("proxy_location:", "proxy_place:", "proxy_place"),
        ("  request_timeout_s: null", "  timeout_s: null", "http_options.timeout_s"),
        ("  encoding: JSON", "  format: JSON", "logging_config.format"),
        ("    route_prefix: /", "    prefix: /", "applications[0].prefix"),
        ("      topology: split", "      topologie: split", "applications[0].args.topologie"),
        ("        max_nesting: 32", "        max_depth: 32", "applications[0].args.limits.max_depth"),
        (
            "      - name: Classifier",
            "      - name: Classifier\n        replicas: 2",
            "applications[0].deployments[1].replicas",
        ),
        ("          max_replicas: 2", "          most: 2", "applications[0].deployments[0].autoscaling_config.most"),
        (
            "            policy_function:",
            "            function: x\n            policy_function:",
            "applications[0].deployments[0].autoscaling_config.policy.function",
        ),
        ("          num_cpus: 0.25", "          cpus: 0.25", "applications[0].deployments[1].ray_actor_options.cpus"),
    ],
)
def test_a_key_that_nobody_knows_is_refused_with_its_line_at_every_level(tmp_path: Path, old: str, new: str, name: str) -> None:
    path, line = edited(tmp_path, old, new)
    line -= new.endswith("policy_function:")  # the last line of this edit is one that was there before
    with pytest.raises(SettingsError, match=rf"^{path}, line {line}: {re.escape(name)}: there is no such setting here$"):
        check(path)


def test_access_control_one_level_too_far_left_is_not_ignored(tmp_path: Path) -> None:
    content = CONFIG.read_text()
    start, end = content.index("      access:"), content.index("      preprocessor_batches:")
    access = content[start:end]
    shifted = "".join(line[2:] for line in access.splitlines(keepends=True))
    args_end = content.index("    deployments:")
    path = tmp_path / "config.yaml"
    path.write_text(content[:start] + content[end:args_end] + shifted + content[args_end:])
    with pytest.raises(SettingsError, match=r"line \d+: applications\[0\]\.access: there is no such setting here"):
        check(path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("port: 1313", "port: yes", "http_options.port: Expected `int`, got `bool`"),
        ("port: 1313", "port: 70000", "http_options.port: Expected `int` <= 65535"),
        ("host: 127.0.0.1", "host: 7", "http_options.host: Expected `str`, got `int`"),
        ("encoding: JSON", "encoding: [JSON]", "logging_config.encoding: Input should be a valid string"),
        ("max_rows: 200000", "max_rows: many", "applications[0].args.limits.max_rows: Expected `int`, got `str`"),
        (
            "health_check_period_s: 2.0",
            "health_check_period_s: soon",
            "applications[0].deployments[0].health_check_period_s: Input should be a valid number",
        ),
        (
            "min_replicas: 1",
            "min_replicas: many",
            "applications[0].deployments[0].autoscaling_config.min_replicas: Input should be a valid integer",
        ),
        ("port: 1313", "port: 1313\n  port: 1314", "'port' is set twice"),
        ("host: 127.0.0.1", "host: ]", "this is not YAML: "),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_with_its_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    path, line = edited(tmp_path, old, new)
    with pytest.raises(SettingsError, match=rf"^{path}, line {line}: {re.escape(said)}") as refused:
        check(path)
    assert "\n" not in str(refused.value)


def test_without_applications_nothing_is_started(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("http_options: {host: 127.0.0.1, port: 1}\napplications: []\n")
    with pytest.raises(SettingsError, match=r"line 2: applications: Expected `array` of length >= 1"):
        check(path)


def test_more_replicas_at_least_than_at_most_are_refused() -> None:
    with pytest.raises(
        SettingsError, match=r"autoscaling_config: max_replicas \(2\) must be greater than or equal to min_replicas"
    ):
        check(CONFIG, Overrides(min_replicas=3))


@pytest.mark.parametrize(
    "content", ["", "[]", "http_options: 7", "a: [", "http_options: {host: x, port: many}", "\t", "a: &b *c"]
)
def test_a_file_of_another_shape_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(SettingsError, match=r"^\S+config\.yaml(, line \d+)?: [^\n]*$"):
        check(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nowhere cannot be read: No such file or directory"):
        check(tmp_path / "nowhere")
