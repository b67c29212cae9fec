"""Starts the service, has the load rise and fall, and draws docs/scaling.svg: ``make demo-scaling``.

So that a small machine shows it within three minutes, the service is told to add replicas from 16 requests each on and to let
them go after 20 seconds; config/serve_config.yaml has the values for service.
"""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click
import yaml

from serve_app.config import PROJECT_ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable

CONFIG = PROJECT_ROOT / "config" / "serve_config.yaml"


@click.command(help=__doc__.partition("\n")[0])
@click.option("--chart", default=PROJECT_ROOT / "docs" / "scaling.svg", show_default="docs/scaling.svg")
@click.option("--seconds", default=160.0, show_default=True, help="Of load.")
def main(chart: Path, seconds: float) -> None:
    """The command line."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "serve_config.yaml")
        url = write_eager_config(config)
        command = [sys.executable, "-m", "serve_app", "run", "--config", str(config)]
        with subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True) as service:
            try:
                dashboard, token = wait_for_announcement(service.stdout or ())
                stress = ["scaling", "--url", url, "--dashboard", dashboard, "--token", token]
                shape = ["--seconds", str(seconds), "--chart", str(chart)]
                done = subprocess.run([sys.executable, "-m", "stress", *stress, *shape], cwd=PROJECT_ROOT, check=False)
            finally:
                service.send_signal(signal.SIGINT)
    sys.exit(done.returncode)


def write_eager_config(path: Path) -> str:
    """The committed config with a free port and an eager autoscaler; the service's URL."""
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = config["http_options"]["port"] = listener.getsockname()[1]
    for deployment in config["applications"][0]["deployments"]:
        deployment["autoscaling_config"]["downscale_delay_s"] = 20.0
        if deployment["name"] == "Preprocessor":
            deployment["autoscaling_config"]["target_ongoing_requests"] = 16
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return f"http://127.0.0.1:{port}"


def wait_for_announcement(said: IO[str] | Iterable[str]) -> tuple[str, str]:
    """The dashboard's address and token, once the service answers."""
    for line in said:
        found = re.match(r"Dashboard: +(\S+)/#/serve", line)
        if found:
            ray = str(Path(sys.executable).with_name("ray"))
            token = subprocess.run([ray, "get-auth-token"], check=True, capture_output=True, text=True).stdout.strip()
            return found[1], token
    raise click.ClickException("the service did not start")


if __name__ == "__main__":
    main()
