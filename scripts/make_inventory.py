"""Writes the inventory of serving: docs/licences.md and docs/sbom.cdx.json (CycloneDX), which is not under version control.

``make audit`` runs it. Both files list the pins in requirements/serve.txt and nothing else that the environment holds.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PINS = ROOT / "requirements" / "serve.txt"


def tool(name: str, *arguments: str | Path) -> str:
    """The output of a program of this environment."""
    done = subprocess.run(
        [Path(sys.executable).with_name(name), *arguments], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return done.stdout


def pinned() -> dict[str, str]:
    """The version of each package in requirements/serve.txt."""
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", PINS.read_text(encoding="utf-8"), re.MULTILINE))


def write_bill_of_materials(path: Path) -> None:
    """Writes name, version and hashes of each package; the same pins make the same file.

    Raises:
        RuntimeError: the file lists other packages or versions than the pins.
    """
    tool("cyclonedx-py", "requirements", PINS, "--output-reproducible", "--of", "JSON", "-o", path)
    bill = json.loads(path.read_text(encoding="utf-8"))
    if {component["name"]: component["version"] for component in bill["components"]} != pinned():
        raise RuntimeError(f"{path} lists other packages than {PINS}")
    path.write_text(json.dumps(bill, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def write_licences(path: Path) -> None:
    """Writes a table of the licences that the packages' own metadata states."""
    found = json.loads(tool("pip-licenses", "--format=json", "--from=mixed", "--with-urls", "--packages", *pinned()))
    lines = [
        "# Licences",
        "",
        "Of the packages in requirements/serve.txt, as their own metadata states them. Written by `make audit`.",
        "",
        "| package | version | licence |",
        "|---|---|---|",
    ]
    for package in sorted(found, key=lambda package: str(package["Name"]).lower()):
        licence = " ".join(str(package["License"]).split()[:12])
        lines.append(f"| {package['Name']} | {package['Version']} | {licence} |")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_bill_of_materials(ROOT / "docs" / "sbom.cdx.json")
    write_licences(ROOT / "docs" / "licences.md")
