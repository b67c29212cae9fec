"""Makes docs/ray_dashboard.png and docs/prometheus.png, screenshots of a running cluster, with a headless Chromium.

    docker compose up -d --wait --scale grafana=0
    python scripts/make_screenshots.py
    docker compose down

It sends requests for two minutes first, so that the graphs show something. It needs the system's Chromium (Debian: apt
install chromium); Playwright's own browser would have to be downloaded.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import click
import requests
from playwright.sync_api import sync_playwright

from serve_app.config import PROJECT_ROOT

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

DOCS = PROJECT_ROOT / "docs"
DASHBOARD = PROJECT_ROOT / "monitoring" / "grafana" / "dashboards" / "class-prediction.json"
PANELS = ("Requests by status code", "Rows scored", "Positive share against training")
SIZE: Any = {"width": 1400, "height": 800}
TIMEOUT_MS = 60_000


@click.command(help=__doc__.partition("\n")[0])
@click.option("--service", default="http://127.0.0.1:1313", show_default=True)
@click.option("--ray", default="http://127.0.0.1:8265", show_default=True, help="Ray's dashboard.")
@click.option("--prometheus", default="http://127.0.0.1:9090", show_default=True)
@click.option("--seconds", default=120.0, show_default=True, help="Duration of the requests before the screenshots.")
def main(service: str, ray: str, prometheus: str, seconds: float) -> None:
    """The command line."""
    chromium = shutil.which("chromium")
    if chromium is None:
        raise click.ClickException("chromium is not on the path")
    token = _output("docker", "compose", "exec", "-T", "head", "ray", "get-auth-token")
    send_requests(service, seconds)
    with sync_playwright() as playwright:
        # Chromium's sandbox does not work as root or in a container; the pages are our own.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(viewport=SIZE)
        context.set_default_timeout(TIMEOUT_MS)
        context.add_cookies([{"name": "ray-authentication-token", "value": token, "url": ray}])
        picture_ray(context, ray)
        picture_prometheus(context, prometheus)
        browser.close()


def send_requests(service: str, seconds: float) -> None:
    """Sends one to forty rows at a time: good ones, some with nulls and unknown categories, and bad ones."""
    (row,) = json.loads((PROJECT_ROOT / "data" / "reference" / "example.json").read_text(encoding="utf-8"))
    others = [{**row, "x91": None}, {**row, "x5": "blursday"}, {**row, "x5": "friday", "x81": "July"}]
    end = time.monotonic() + seconds
    sent = 0
    with requests.Session() as session:
        while time.monotonic() < end:
            sent += 1
            rows = [row, *others] * (1 + sent % 10) if sent % 20 else [{**row, "x53": "abc"}]
            session.post(f"{service}/predict", json=rows, timeout=30)
            time.sleep(0.02)


def picture_ray(context: BrowserContext, ray: str) -> None:
    """Ray's page of Serve, with both deployments."""
    page = context.new_page()
    page.goto(f"{ray}/#/serve")
    for deployment in ("Preprocessor", "Classifier"):
        page.get_by_text(deployment).first.wait_for()
    page.screenshot(path=DOCS / "ray_dashboard.png")


def picture_prometheus(context: BrowserContext, prometheus: str) -> None:
    """Graphs of some queries of our dashboard, drawn by Prometheus."""
    by_title = {panel["title"]: panel["targets"] for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]}
    parameters = {}
    for number, title in enumerate(PANELS):
        parameters[f"g{number}.expr"] = by_title[title][0]["expr"].replace("$__rate_interval", "1m")
        parameters |= {f"g{number}.tab": "0", f"g{number}.range_input": "3m"}
    page = context.new_page()
    page.goto(f"{prometheus}/graph?{urlencode(parameters)}", wait_until="networkidle")
    page.evaluate("window.scrollTo(0, 0)")  # its header scrolls along and would cover the middle of the picture
    page.screenshot(path=DOCS / "prometheus.png", full_page=True)


def _output(*command: str) -> str:
    return subprocess.run(command, cwd=PROJECT_ROOT, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
