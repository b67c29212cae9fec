"""The README's commands and answers, executed as printed."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests
from support.serving import Server, run_command, serve, wait_until, write_config

from serve_app.config import PROJECT_ROOT

README = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")
URL = "http://127.0.0.1:1313"

pytestmark = pytest.mark.e2e


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def console_examples() -> list[tuple[str, str]]:
    """Command and printed output of each ``$`` line."""
    return [
        example for block in blocks("console") for example in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
    ]


def shell(command: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{PROJECT_ROOT}/.venv/bin:/usr/local/bin:/usr/bin:/bin", "HOME": str(Path.home())}
    return subprocess.run(
        ["bash", "-c", command],
        cwd=PROJECT_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def made_run() -> Iterator[Server]:
    """The service as the README's first command starts it, on the real port."""
    (first_block, *_) = blocks("sh")
    assert first_block.splitlines()[0].startswith("make run ")
    with serve(["make", "run"], URL) as server:
        yield server


def test_make_run_prints_the_url_a_curl_line_that_works_and_the_dashboard(made_run: Server) -> None:
    wait_until(lambda: "Ctrl-C" in made_run.log.read_text(), "the announcement", 30)
    said = made_run.log.read_text()
    assert f"Serving on {URL}" in said
    (curl,) = re.findall(r"curl .*", said)
    assert curl == console_examples()[0][0]
    ((dashboard, token_command),) = re.findall(r"Dashboard: +(\S+)/#/serve \(it asks for what (.*) prints\)", said)
    assert f"`{token_command}`" in README
    token = shell(token_command).stdout.strip()
    for page, headers, status in (("", {}, 200), ("/api/serve/applications/", {"Authorization": f"Bearer {token}"}, 200)):
        assert requests.get(f"{dashboard}{page}", headers=headers, timeout=30).status_code == status


@pytest.mark.parametrize(("command", "output"), console_examples())
def test_an_example_prints_what_the_readme_says(made_run: Server, command: str, output: str) -> None:
    done = shell(command)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.rstrip("\n") == output.rstrip("\n")


def test_a_busy_port_is_one_clear_sentence_and_exit_1(made_run: Server) -> None:
    done = shell(".venv/bin/python -m serve_app run")
    assert done.returncode == 1
    assert re.fullmatch(r"Error: port 1313 on 127\.0\.0\.1 is already in use: [^\n]+\n", done.stderr)
    assert requests.get(f"{URL}/ready", timeout=30).status_code == 200


def test_sigterm_leaves_no_process_behind(tmp_path: Path) -> None:
    config, url = write_config(tmp_path)
    with serve(run_command(config), url) as server:
        family = server.process.children(recursive=True)
        assert any("raylet" in process.name() for process in family)
        server.process.terminate()
        _, alive = psutil.wait_procs([server.process, *family], timeout=40)
        assert [process.name() for process in alive] == []
        assert server.log.read_text().endswith("Stopped.\n")


def test_serve_run_answers_the_same_with_and_without_the_settings_file(made_run: Server, tmp_path: Path) -> None:
    (commands,) = [block for block in blocks("sh") if "serve run" in block]
    body = (PROJECT_ROOT / "data" / "reference" / "example.json").read_bytes()
    expected = made_run.predict(body).json()
    for sourced in (True, False):
        config, url = write_config(tmp_path)
        lines = [line for line in commands.splitlines() if sourced or "serve.env" not in line]
        script = "\n".join(lines).replace("config/serve_config.yaml", str(config)).replace("serve run", "exec serve run")
        with serve(
            ["bash", "-c", script],
            url,
            {"RAY_SERVE_HAPROXY_STATS_PORT": free(), "RAY_SERVE_HAPROXY_METRICS_PORT": free()},
        ) as server:
            assert server.predict(body).json() == expected


def free() -> str:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return str(listener.getsockname()[1])


def test_sigterm_to_make_and_ctrl_c_in_its_terminal_leave_no_process_behind(made_run: Server) -> None:
    # The last test that uses make run: it stops it. SIGINT to the group of make run is how each serve() block ends.
    family = made_run.process.children(recursive=True)
    made_run.process.terminate()
    _, alive = psutil.wait_procs([made_run.process, *family], timeout=40)
    assert [process.name() for process in alive] == []
    assert "Stopped.\n" in made_run.log.read_text()


def test_the_readme_names_the_test_command_that_ci_runs() -> None:
    assert blocks("sh")[0].splitlines()[1].startswith("make test ")
    assert re.search(r"^make test$", (PROJECT_ROOT / ".ci" / "run").read_text(), re.MULTILINE)


def test_the_table_of_modules_is_complete() -> None:
    modules = {path.name for path in (PROJECT_ROOT / "serve_app").glob("*.py")} - {"__init__.py", "__main__.py"}
    listed = README[README.index("    serve_app/") :]
    assert {name for name in modules if name not in listed} == set()
