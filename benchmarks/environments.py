"""A virtual environment per rival, in benchmarks/.envs, installed from the rival's own pins when first needed.

An environment is used again as long as its requirements.txt is unchanged.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from stress.errors import StressError

__all__ = ["ENVIRONMENTS", "RIVALS", "ensure_environment"]

RIVALS = Path(__file__).resolve().parent / "rivals"
ENVIRONMENTS = Path(__file__).resolve().parent / ".envs"


def ensure_environment(name: str) -> Path:
    """The folder of the rival's programs, after installing its requirements.txt if necessary.

    Raises:
        StressError: pip failed; the message says where its output is.
    """
    requirements = RIVALS / name / "requirements.txt"
    folder = ENVIRONMENTS / name
    made_from = f"{sys.version_info[:3]} {hashlib.sha256(requirements.read_bytes()).hexdigest()}"
    stamp = folder / "made-from.sha256"
    if not stamp.exists() or stamp.read_text() != made_from:
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
        log = folder / "pip.log"
        with log.open("wb") as output:
            installed = subprocess.run([*pip, "-r", str(requirements)], stdout=output, stderr=subprocess.STDOUT, check=False)
        if installed.returncode != 0:
            raise StressError(f"{requirements} could not be installed; pip's output is in {log}")
        stamp.write_text(made_from)
    return folder / "bin"
