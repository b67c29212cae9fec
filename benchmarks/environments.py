"""One virtual environment per rival, made when it is first needed from the rival's own pins.

Owns benchmarks/.envs. An environment is used again as long as its requirements.txt is the one it was made from.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.errors import BenchmarkError

__all__ = ["ENVIRONMENTS", "RIVALS", "ensure_environment"]

RIVALS = Path(__file__).resolve().parent / "rivals"
ENVIRONMENTS = Path(__file__).resolve().parent / ".envs"
_STAMP = "made-from.sha256"


def ensure_environment(name: str) -> Path:
    """The folder of the rival's executables, after installing what its requirements.txt pins, if that is not done.

    Raises:
        BenchmarkError: pip failed; the sentence says where its output is.
    """
    requirements = RIVALS / name / "requirements.txt"
    folder = ENVIRONMENTS / name
    made_from = f"{sys.version_info[:3]} {hashlib.sha256(requirements.read_bytes()).hexdigest()}"
    stamp = folder / _STAMP
    if not stamp.exists() or stamp.read_text() != made_from:
        if folder.exists():
            shutil.rmtree(folder)
        venv.create(folder, with_pip=True)
        (ENVIRONMENTS / ".gitignore").write_text("*\n")
        _install(folder, requirements)
        stamp.write_text(made_from)
    return folder / "bin"


def _install(folder: Path, requirements: Path) -> None:
    log = folder / "pip.log"
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
    with log.open("wb") as output:
        installed = subprocess.run([*pip, "-r", str(requirements)], stdout=output, stderr=subprocess.STDOUT, check=False)
    if installed.returncode != 0:
        raise BenchmarkError(f"{requirements} could not be installed; pip's output is in {log}")
