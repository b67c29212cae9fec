"""The documents without running them: links, the names of files, tests and options, and that every command is accounted for."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import click
import pytest
import yaml
from support.documents import NOT_RUN_HERE, PAGES, SCRIPTS, SKIPPED_COMMANDS, blocks, read_page

from serve_app import errors
from serve_app.cli.main import main
from serve_app.config import PROJECT_ROOT
from serve_app.training.column_kinds import read_corrections

FILE = re.compile(r"[\w./-]*\w\.(?:py|yaml|yml|md|json|sh|env|toml|txt|svg|png|pkl|csv|sig|html|pem|key)")
# What a reader makes, and what has no place of its own in the project.
MADE_BY_READERS = {"mine.pkl", "rows.csv", "private.pem", "public.pem", "requirements.in"}
MADE_BY_COMMANDS = {"manifest.json.sig", "report.html", "requests.csv", "scaling.svg", "chart.png"}
FOLDERS = ("", "serve_app", "tests", "tests/integration", "model_components", "benchmarks", "stress", "data/reference")
OPTIONS_OF_DOCKER = {"--read-only", "--tmpfs", "--cap-drop", "--security-opt", "--scale"}
OF_OTHER_PROGRAMS = {"docs/load-tests.md", "benchmarks/README.md", "stress/README.md"}
"""Pages whose options are those of ``python -m stress`` and ``python -m benchmarks``."""
GENERATED_PAGES = {"docs/licences.md"}
WRITTEN = sorted(set(PAGES) - GENERATED_PAGES)


def prose(page: str) -> str:
    """The page without its fenced blocks, which are checked by running them."""
    return re.sub(r"^```.*?^```$", "", read_page(page), flags=re.MULTILINE | re.DOTALL)


@cache
def anchors(path: Path) -> set[str]:
    """The anchors that a Markdown renderer gives the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def is_ignored(name: str) -> bool:
    patterns = (PROJECT_ROOT / ".gitignore").read_text(encoding="utf-8").split()
    return any(fnmatch(name, pattern.strip("/")) or name.startswith(pattern.strip("/") + "/") for pattern in patterns)


@pytest.mark.parametrize("page", WRITTEN)
def test_every_relative_link_leads_somewhere(page: str) -> None:
    folder = (PROJECT_ROOT / page).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        path = folder / name if name else PROJECT_ROOT / page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


@pytest.mark.parametrize("page", WRITTEN)
def test_every_file_that_is_named_exists(page: str) -> None:
    folder = (PROJECT_ROOT / page).parent.relative_to(PROJECT_ROOT).as_posix()
    named = {name for code in re.findall(r"`([^`\n]+)`", prose(page)) for name in FILE.findall(code)}
    for name in sorted(named - MADE_BY_READERS - MADE_BY_COMMANDS):
        is_there = any((PROJECT_ROOT / base / name).exists() for base in (*FOLDERS, folder))
        assert is_there or name.startswith("/") or is_ignored(name), name


@pytest.mark.parametrize("page", WRITTEN)
def test_every_block_of_commands_is_run_or_has_a_reason_why_not(page: str) -> None:
    are_run = any(page in script for script in SCRIPTS)
    for block in blocks(page, "sh", "console"):
        assert are_run or block.reason_not_run, str(block)


def test_every_reason_belongs_to_one_block() -> None:
    for page, part in NOT_RUN_HERE:
        found = [block for block in blocks(page, "sh", "console") if part in block.text]
        assert len(found) == 1 or page == "stress/commands.md", (page, part)
        assert found, (page, part)
    text = "".join(block.text for page in PAGES for block in blocks(page, "sh"))
    assert all(command in text for command in SKIPPED_COMMANDS)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page: str) -> None:
    assert {block.language for block in blocks(page)} <= {"sh", "console", "yaml"}
    for block in blocks(page, "yaml"):
        assert isinstance(yaml.safe_load(block.text), dict), str(block)


@pytest.mark.parametrize("page", WRITTEN)
def test_every_command_and_option_of_the_service_that_is_named_exists(page: str) -> None:
    commands = dict(main.commands)
    groups = [command for command in commands.values() if isinstance(command, click.Group)]
    everything = [*commands.values(), *(command for group in groups for command in group.commands.values())]
    options = {option for command in everything for parameter in command.params for option in parameter.opts}
    for code in re.findall(r"`([^`\n]+)`", prose(page)):
        for name in re.findall(r"python -m serve_app ([a-z][a-z-]*)", code):
            assert name in commands, code
        if page not in OF_OTHER_PROGRAMS:
            named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", code)) - {"--help"} - OPTIONS_OF_DOCKER
            assert named <= options, code


def test_the_corrections_of_columns_that_are_shown_can_be_read(tmp_path: Path) -> None:
    (block,) = blocks("docs/own-data.md", "yaml")
    (tmp_path / "columns.yaml").write_text(block.text, encoding="utf-8")
    assert read_corrections(tmp_path / "columns.yaml").keys() == {"zip", "account", "age", "plan", "continent"}


def test_the_readme_is_short_and_lists_every_room_and_every_page() -> None:
    readme = read_page("README.md")
    assert len(readme.splitlines()) <= 150
    rooms = {path.parent.name for path in (PROJECT_ROOT / "serve_app").glob("*/__init__.py")}
    assert set(re.findall(r"^\| `(\w+)/` \| .*\|$", readme.partition("| folder |")[0], re.MULTILINE)) == rooms
    listed = set(re.findall(r"\]\((docs/\w[\w-]*\.md)", readme))
    assert listed == {page for page in PAGES if page.startswith("docs/")}


def test_the_tests_that_the_security_page_names_exist() -> None:
    page = read_page("docs/security.md")
    names = [
        name
        for path in (PROJECT_ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    tables = re.findall(r"^\| threat \|.*\n\|[-|]+\n((?:\|.*\n)+)", page, re.MULTILINE)
    headings = re.findall(r"^\| threat \|.*$", page, re.MULTILINE)
    assert len(tables) == 5
    for heading, table in zip(headings, tables, strict=True):
        column = [cell.strip() for cell in heading.split("|")].index("tests")
        for row in table.splitlines():
            said = re.findall(r"`([\w/.]+)`", row.split("|")[column])
            assert said or "see below" in row or "make check" in row, row
            for word in said:
                if word.endswith(".py"):
                    assert (PROJECT_ROOT / "tests" / word).is_file(), word
                else:
                    assert any(word in name for name in names), word


def test_the_page_of_the_interface_lists_every_code_of_an_error() -> None:
    listed = set(
        re.findall(r"`([a-z_]+)`", "".join(re.findall(r"^\| \d{3} \| ([^|]*)", read_page("docs/api.md"), re.MULTILINE)))
    )
    raised = {
        error.code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.RequestError | errors.AccessError)
    }
    assert raised - listed == {"invalid_rows"}  # clients get the code of the first row's problem
    source = "".join(path.read_text(encoding="utf-8") for path in (PROJECT_ROOT / "serve_app").rglob("*.py"))
    assert {code for code in listed if f'"{code}"' not in source} <= {"not_a_boolean", "not_a_date"}  # made of the kind


def test_the_readme_names_the_test_command_that_ci_runs() -> None:
    assert any(block.text.startswith("make test ") for block in blocks("README.md", "sh"))
    assert re.search(r"^run make test$", (PROJECT_ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)


def test_the_changelog_begins_with_what_is_unreleased() -> None:
    headings = re.findall(r"^## (.*)$", read_page("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d{2}-\d{2}", heading) for heading in headings[1:])
