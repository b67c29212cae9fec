"""Starts the service, raises and lowers the load, and draws docs/scaling.svg: ``make demo-scaling``.

The autoscaler is set to react faster than in config/serve_config.yaml, so that a small machine shows it within three minutes:
it adds replicas from 16 ongoing requests each and removes them after 20 seconds.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from benchmarks.load import HOST
from benchmarks.processes import ProcessTree, started
from benchmarks.servers import Changes, Ports, own_server
from serve_app.config import PROJECT_ROOT
from stress.options import PATH, run_command_line

START_TIMEOUT_S = 180
EAGER = Changes(
    deployments={
        "Preprocessor": {"autoscaling_config": {"downscale_delay_s": 20.0, "target_ongoing_requests": 16}},
        "Classifier": {"autoscaling_config": {"downscale_delay_s": 20.0}},
    }
)


@click.command(help=__doc__.partition("\n")[0])
@click.option("--chart", type=PATH, default=PROJECT_ROOT / "docs" / "scaling.svg", show_default="docs/scaling.svg")
@click.option("--seconds", default=160.0, show_default=True, help="Duration of the load.")
def main(chart: Path, seconds: float) -> None:
    """The command line."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        port = free_port()
        launch = own_server("scaling", "this service", EAGER).launch(Ports(port), Path(folder))
        log = Path(folder, "log")
        with started(launch.command, launch.environment, PROJECT_ROOT, log) as service:
            dashboard = wait_for_dashboard(service, log)
            ray = str(Path(sys.executable).with_name("ray"))
            token = subprocess.run([ray, "get-auth-token"], check=True, capture_output=True, text=True).stdout.strip()
            command = [sys.executable, "-m", "stress", "scaling", "--url", f"http://{HOST}:{port}", "--chart", str(chart)]
            options = ["--dashboard", dashboard, "--token", token, "--seconds", str(seconds)]
            done = subprocess.run([*command, *options], cwd=PROJECT_ROOT, check=False)
    sys.exit(done.returncode)


def free_port() -> int:
    """A port that was free a moment ago, with room for a hundred above it."""
    while True:
        with socket.socket() as listener:
            listener.bind((HOST, 0))
            port = int(listener.getsockname()[1])
        if port < 65_000:
            return port


def wait_for_dashboard(service: ProcessTree, log: Path) -> str:
    """The dashboard's address, once the service has announced that it answers."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not (found := re.search(r"^Dashboard: +(\S+)/#/serve", log.read_text(encoding="utf-8"), re.MULTILINE)):
        service.require_alive()
        if time.monotonic() > deadline:
            raise click.ClickException(f"the service did not start:\n{service.last_output()}")
        time.sleep(0.2)
    return found[1]


if __name__ == "__main__":
    run_command_line(main, Path(sys.argv[0]).name)
