from __future__ import annotations

from benchmarks.results import load_results, summarise_run
from benchmarks.scenarios import LOADS
from benchmarks.tables import print_report, server_table, target_table
from benchmarks.targets import TARGETS
from serve_app.config import PROJECT_ROOT
from stress.options import console


def test_the_tables_in_markdown_leave_out_what_was_not_measured() -> None:
    rounds = {
        "serve_app": {LOADS[1].name: [{"requests_per_s": 1234.4, "errors": 0.0}]},
        "rival": {LOADS[1].name: [{"requests_per_s": 99.0, "errors": 1.0}]},
    }
    titles = {"rival": "a rival", "serve_app": "this service"}
    results = summarise_run(seconds=5, round_count=1, titles=titles, failures={}, rounds=rounds)
    heading, rule, rival, own = server_table(results).splitlines()
    assert heading.count("|") == rule.count("|") == rival.count("|") == own.count("|") == 7
    assert own == "| this service | – | 1,234/s | – | – | – |"  # noqa: RUF001
    assert "99" not in rival
    assert len(target_table(results).splitlines()) == 2 + len(TARGETS)


def test_the_documentation_shows_the_committed_run() -> None:
    results = load_results(PROJECT_ROOT / "benchmarks" / "results.json")
    pages = [PROJECT_ROOT / "README.md", *(PROJECT_ROOT / "docs").glob("*.md")]
    (page,) = [text for page in pages if server_table(results) in (text := page.read_text(encoding="utf-8"))]
    assert target_table(results) in page
    assert results.date in page


def test_the_report_names_every_server_and_target() -> None:
    results = load_results(PROJECT_ROOT / "benchmarks" / "results.json")
    with console.capture() as printed:
        print_report(results)
    said = " ".join(printed.get().split())
    assert all(title in said for title in results.titles.values())
    assert all(said.count(f" {state} ") > 0 for state in ("met", "short"))
