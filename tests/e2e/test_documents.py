"""The commands and answers of the documents, executed as printed, and what the README promises of ``make run``.

tests/support/documents.py lists which pages are run here, and which blocks are not and why.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests
from support.documents import SCRIPTS, blocks, find_block, read_page
from support.reader import URL, Reader
from support.serving import serve, wait_until, write_config
from support.variants import publish_variant

from serve_app.config import PROJECT_ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

EXAMPLE = PROJECT_ROOT / "data" / "reference" / "example.json"
# What the commands of a script leave behind.
MADE = {
    "README.md": (
        "cancer_model/manifest.json",
        "cancer_model-report.html",
        "rows.json",
        "scored",
        "drift.html",
        "imported_model",
    ),
    "docs/models.md": ("my_model/manifest.json.sig",),
    "docs/security.md": ("config/keys.json",),
}


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """Who has a model already, as docs/models.md assumes."""
    reader = Reader(tmp_path_factory.mktemp("reader"))
    publish_variant(reader.folder / "my_model", "2.0.0")
    yield reader
    reader.stop()


def test_make_run_prints_the_url_a_curl_line_that_works_and_the_dashboard(reader: Reader) -> None:
    server = reader.serve()
    wait_until(lambda: "Ctrl-C" in server.log.read_text(), "the announcement", 30)
    said = server.log.read_text()
    assert f"Serving on {URL}" in said
    (curl,) = re.findall(r"curl .*", said)
    (example,) = next(blocks("README.md", "console")).examples()
    assert curl == example[0]
    ((dashboard, token_command),) = re.findall(r"Dashboard: +(\S+)/#/serve \(it asks for what (.*) prints\)", said)
    assert f"`{token_command}`" in read_page("README.md")
    token = reader.shell(token_command).stdout.strip()
    for page, headers in (("", {}), ("/api/serve/applications/", {"Authorization": f"Bearer {token}"})):
        assert requests.get(f"{dashboard}{page}", headers=headers, timeout=30).status_code == 200


def test_a_busy_port_is_one_clear_sentence_and_exit_1(reader: Reader) -> None:
    reader.serve()
    with pytest.raises(AssertionError, match=r"Error: port 1313 on 127\.0\.0\.1 is already in use: [^\n]+\n$"):
        reader.shell("exec .venv/bin/python -m serve_app run")
    assert requests.get(f"{URL}/ready", timeout=30).status_code == 200


@pytest.mark.parametrize("pages", SCRIPTS, ids=lambda pages: pages[0])
def test_the_commands_of_a_page_work_and_print_what_it_says(reader: Reader, pages: tuple[str, ...]) -> None:
    reader.begin()
    for page in pages:
        for block in blocks(page, "sh", "console"):
            if block.reason_not_run is None:
                reader.run(block)
    for name in MADE.get(pages[0], ()):
        assert (reader.folder / name).exists(), name


def test_sigterm_to_make_and_ctrl_c_in_its_terminal_leave_no_process_behind(reader: Reader) -> None:
    # It stops the service that other tests use. SIGINT to the group of make run is how each serve() block ends.
    server = reader.serve()
    family = server.process.children(recursive=True)
    assert any("raylet" in process.name() for process in family)
    server.process.terminate()
    _, alive = psutil.wait_procs([server.process, *family], timeout=40)
    assert [process.name() for process in alive] == []
    assert "Stopped.\n" in server.log.read_text()
    reader.stop()


@pytest.mark.parametrize("has_settings", [True, False])
def test_serve_run_answers_the_same_with_and_without_the_settings_file(tmp_path: Path, has_settings: bool) -> None:
    commands = find_block("docs/running.md", "sh", "serve run")
    ((_, printed),) = next(blocks("README.md", "console")).examples()
    config, url = write_config(tmp_path)
    lines = [line for line in commands.splitlines() if has_settings or "serve.env" not in line]
    script = "\n".join(lines).replace("config/serve_config.yaml", str(config)).replace("serve run", "exec serve run")
    ports = {"RAY_SERVE_HAPROXY_STATS_PORT": free(), "RAY_SERVE_HAPROXY_METRICS_PORT": free()}
    with serve(["bash", "-c", script], url, ports) as server:
        assert server.predict(EXAMPLE.read_bytes()).text == printed.rstrip("\n")


def free() -> str:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return str(listener.getsockname()[1])
