"""The project's documents: their blocks of commands, and which of these a test runs elsewhere or not at all.

Knows no service: tests/support/reader.py runs the commands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType

from serve_app.config import PROJECT_ROOT

__all__ = ["NOT_RUN_HERE", "PAGES", "SCRIPTS", "SKIPPED_COMMANDS", "Block", "blocks", "find_block", "read_page"]

PAGES = tuple(
    path.relative_to(PROJECT_ROOT).as_posix()
    for folder in (".", "docs", "stress", "benchmarks", "data/reference")
    for path in sorted((PROJECT_ROOT / folder).glob("*.md"))
)

SCRIPTS = (
    ("docs/api.md",),
    ("docs/models.md",),
    ("docs/contributing.md",),
    ("README.md", "docs/own-data.md"),
    ("docs/security.md",),
)
"""Pages whose commands tests/e2e/test_documents.py runs, each group in order and in one folder.

Those that need only ``make run`` come first, so that they share it; the others start a service of their own.
"""

NOT_RUN_HERE = MappingProxyType(
    {
        ("README.md", "make test "): "it runs this very test",
        ("docs/running.md", "serve run "): "tests/e2e/test_documents.py runs it with and without the second line",
        ("docs/running.md", "docker build "): "tests/docker/test_image.py",
        ("docs/running.md", "docker compose up --detach --wait   #"): "tests/docker/test_cluster.py",
        ("docs/running.md", "--scale worker=4"): "tests/docker/test_cluster.py, with other numbers",
        ("docs/running.md", "docker compose exec head"): "tests/docker/test_cluster.py",
        ("docs/running.md", "run --cluster"): "needs a second machine; tests/docker/test_cluster.py has containers",
        ("docs/running.md", "join HEAD"): "needs a second machine; tests/docker/test_cluster.py has containers",
        ("docs/running.md", "kubectl"): "needs Kubernetes; tests/unit/artefacts/test_kuberay.py checks the manifest",
        ("docs/models.md", "serve deploy "): "tests/faults/test_faults.py deploys an edited file like this",
        ("docs/security.md", "openssl req "): "tests/integration/test_hardening.py",
        ("docs/contributing.md", "pytest"): "the tests that it names are part of this run",
        ("docs/reliability.md", "make faults"): "takes half an hour, and writes the page",
        ("docs/load-tests.md", "stress/stress_test.sh"): "tests/integration/test_stress.py, with fewer calls",
        ("docs/load-tests.md", "make stress SCENARIO"): "tests/integration/test_stress.py, for fewer seconds",
        ("docs/load-tests.md", "make stress-compare"): "tests/integration/test_stress.py, for fewer seconds",
        ("docs/load-tests.md", "make stress-capacity"): "tests/integration/test_stress.py, for fewer seconds",
        ("docs/load-tests.md", "stress scaling"): "tests/faults/test_scaling.py",
        ("stress/commands.md", "$ "): "tests/integration/test_stress.py runs the whole page",
    }
)
"""Why a block is not run by tests/e2e/test_documents.py, by its page and some of its text."""

SKIPPED_COMMANDS = MappingProxyType({"make install-data": "the environment of the tests has these packages"})
"""Commands that are skipped within a block that is run."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; ``line`` is that of its first line of text."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def reason_not_run(self) -> str | None:
        """Why tests/e2e/test_documents.py does not run it; None if it does."""
        for (page, part), reason in NOT_RUN_HERE.items():
            if page == self.page and part in self.text:
                return reason
        return None

    def examples(self) -> list[tuple[str, str]]:
        """Of a console block: each command and what it prints."""
        return re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", self.text, re.MULTILINE)


def read_page(page: str) -> str:
    """The text of a page, by its path in the project."""
    return (PROJECT_ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, *languages: str) -> Iterator[Block]:
    """The fenced blocks of a page, of these languages or all."""
    text = read_page(page)
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if not languages or found[1] in languages:
            yield Block(page, text.count("\n", 0, found.start(2)) + 1, found[1], found[2])


def find_block(page: str, language: str, part: str) -> str:
    """The text of the one block of a page that has ``part`` in it."""
    (block,) = (block for block in blocks(page, language) if part in block.text)
    return block.text
