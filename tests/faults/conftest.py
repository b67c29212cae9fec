"""A service that things are done to, and the table of what they cost, which docs/reliability.md shows.

The environment variable ``RELIABILITY_REPORT`` names a page to put the table into; ``FAULTS_AT_LENGTH`` makes the runs longer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.fault_target import ROOM, Target
from support.scoring import score
from support.serving import run_command, serve, wait_for_direct_way, write_config
from support.steady_load import Outcome
from support.variants import publish_variant

from serve_app.components.compiled import Components

_ROWS = pytest.StashKey[list[str]]()
_BEGIN, _END = "<!-- table: make faults -->\n", "<!-- end of table -->\n"

Report = Callable[[str, Outcome, str], None]


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory, components: Components, make_rows: Any) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("faults")
    other = publish_variant(folder / "2.0.0", "2.0.0")
    rows = make_rows(60, 31)

    def make_small(config: dict[str, Any]) -> None:
        (application,) = config["applications"]
        application["args"]["limits"] |= {"idle_timeout_s": 4.0}
        for deployment in application["deployments"]:
            if deployment["name"] == "Preprocessor":
                deployment |= {"max_ongoing_requests": ROOM * 2 // 3, "max_queued_requests": ROOM // 3}

    config, url = write_config(folder, make_small)
    with serve(run_command(config), url) as server:
        wait_for_direct_way(server)
        expected = {model.version_label: score(model, rows) for model in (components, other)}
        yield Target(server, folder, rows, expected)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_ROWS] = []


@pytest.fixture(scope="session")
def report(pytestconfig: pytest.Config) -> Report:
    """Adds a row to the table: what was done, what became of the calls, and what else there is to say."""

    def add(fault: str, outcome: Outcome, remark: str) -> None:
        counts = (outcome.sent, outcome.answered, outcome.refused, outcome.failed, outcome.wrong, outcome.hung)
        cells = [fault, *(f"{count:,}" for count in counts), f"{outcome.longest_pause_s:.1f} s", remark]
        pytestconfig.stash[_ROWS].append(f"| {' | '.join(cells)} |")

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash[_ROWS]
    if not rows:
        return
    table = "\n".join(
        [
            "| what happens | calls | answered | refused (503) | failed | wrong | hung | longest pause | |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
            *rows,
        ]
    )
    terminalreporter.write_line(table)
    page = os.environ.get("RELIABILITY_REPORT")
    if page:
        text = Path(page).read_text(encoding="utf-8")
        before, _, rest = text.partition(_BEGIN)
        _, _, after = rest.partition(_END)
        dated = f"{datetime.now(UTC):%Y-%m-%d}, on a machine with {os.cpu_count()} CPUs that also made the load."
        Path(page).write_text(f"{before}{_BEGIN}\n{dated}\n\n{table}\n\n{_END}{after}", encoding="utf-8")
