"""A reader who types the commands of a page, in order, in a copy of the project."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

from support.documents import SKIPPED_COMMANDS, Block
from support.serving import Server, serve

from serve_app.config import PROJECT_ROOT

__all__ = ["URL", "Reader"]

URL = "http://127.0.0.1:1313"
_SERVES = re.compile(r"(make run|python -m serve_app run)\b")
_LEFT_OUT = shutil.ignore_patterns(".git", ".venv", ".*_cache", ".hypothesis", "__pycache__", ".envs", "reports", "tests")
_TIMEOUT_S = 200


class Reader:
    """Runs blocks as one goes on in a terminal: variables and the activated environment last from one to the next.

    A command that serves runs in the background until the next one of its kind, as if stopped by Ctrl-C.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "project"
        shutil.copytree(PROJECT_ROOT, self.folder, ignore=_LEFT_OUT)
        (self.folder / ".venv").symlink_to(PROJECT_ROOT / ".venv")
        self._state = folder / "state"
        self._services = ExitStack()
        self._command = ""
        self._server: Server | None = None
        self.begin()

    def begin(self) -> None:
        """Opens a new terminal: nothing is activated, no variable is set. The service goes on."""
        self._state.write_text("", encoding="utf-8")

    def serve(self, command: str = "make run") -> Server:
        """The service that a command starts; another one that runs is stopped first."""
        if self._server is None or command != self._command:
            self.stop()
            script = f"cd {self.folder}; . {self._state}; exec {command}"
            self._server = self._services.enter_context(serve(["bash", "-c", script], URL, self._environment()))
            self._command = command
        return self._server

    def stop(self) -> None:
        """Stops the service, and checks that it leaves no process behind."""
        self._server = None
        self._services.close()

    def run(self, block: Block) -> None:
        """Runs a block, while a service is up; fails if a command does, or prints something else than the page says."""
        commands = _commands(block.text)
        if self._server is None and not any(map(_SERVES.match, commands)):
            self.serve()
        if block.language == "console":
            for command, output in block.examples():
                done = self.shell(command)
                assert done.stderr == "", f"{block}: {command}: {done.stderr}"
                assert done.stdout.rstrip("\n") == output.rstrip("\n"), f"{block}: {command}"
            return
        for command in commands:
            if _SERVES.match(command):
                self.serve(command)
            else:
                done = self.shell(command)
                assert '{"error":' not in done.stdout, f"{block}: {command}: {done.stdout}"

    def shell(self, command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command in the foreground; fails if it does."""
        # What a command sets lasts, as in a terminal: `set -a` exports it, `export -p` keeps it for the next one.
        script = f"set -ae; . {self._state}; {command}\nexport -p > {self._state}"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def _environment(self) -> dict[str, str]:
        """That of the tests; the copy's code comes first, in Ray's processes too."""
        return {**os.environ, "PYTHONPATH": str(self.folder)}


def _commands(text: str) -> list[str]:
    """The commands of a sh block, without comments and those that are skipped."""
    joined = text.replace("\\\n", " ")
    lines = (re.sub(r"(^|\s+)# .*", "", line).strip() for line in joined.splitlines())
    parts = (" && ".join(part for part in line.split(" && ") if part not in SKIPPED_COMMANDS) for line in lines)
    return [command for command in parts if command]
