"""The load test against a real service: its scripts, its scenarios, and that it notices what goes wrong."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from support.serving import Server, free_port, ongoing_requests, wait_until

from serve_app.components.compiled import Components
from serve_app.config import PROJECT_ROOT
from serve_app.exercise.stand_in_data import generate
from serve_app.offline.expected_answers import write_expectations
from stress.scenarios import SCENARIOS

STRESS = PROJECT_ROOT / "stress"
ROWS = 50
WRONG_ROW = 17

Run = subprocess.CompletedProcess[str]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "stress", *map(str, arguments)]


def execute(arguments: list[str]) -> Run:
    return subprocess.run(arguments, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=120, check=False)


def stress(*arguments: object) -> Run:
    return execute(command(*arguments))


def script(name: str, *arguments: object) -> Run:
    return execute([str(STRESS / name), *map(str, arguments)])


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def read_log(path: Path) -> list[dict[str, str]]:
    header, *lines = (line.split("\t") for line in path.read_text().splitlines())
    return [dict(zip(header, line, strict=True)) for line in lines]


@pytest.fixture(scope="module")
def few_rows(tmp_path_factory: pytest.TempPathFactory, components: Components) -> Path:
    """A folder of few rows, so that each of them is soon sent."""
    folder = tmp_path_factory.mktemp("few")
    write_expectations(generate(folder, train_rows=1, test_rows=ROWS).test, folder / "expected.json", components)
    return folder


# The scripts.


@pytest.mark.parametrize(
    ("line", "calls", "sizes"),
    [
        ("stress_test.sh --calls 1500", 1500, {str(row) for row in range(1500)}),
        ("stress_test_random.sh --calls 300 --seed 5 --concurrency 4", 300, None),
        ("stress_test_random_batchcall.sh --calls 100 --min-rows 2 --max-rows 3", 100, {"2 rows", "3 rows"}),
        ("batch_call.sh", 1, {"10000 rows"}),
    ],
)
def test_a_script_calls_the_service_by_curl_and_logs_each_call(
    server: Server, tmp_path: Path, line: str, calls: int, sizes: set[str] | None
) -> None:
    log = tmp_path / "log"
    done = script(*line.split(), "--url", server.url, "--log", log)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{calls:,} ok, 0 failed" in done.stdout
    assert "calls" in done.stderr  # the progress bar
    logged = read_log(log)
    assert sorted(int(entry["call"]) for entry in logged) == list(range(calls))
    assert {(entry["status"], entry["verdict"]) for entry in logged} == {("200", "ok")}
    assert all("probability_positiveclass" in entry["answer"] for entry in logged)
    if sizes is not None:
        assert {entry["rows"] for entry in logged} == sizes


@pytest.mark.parametrize(
    "name", ["stress_test.sh", "stress_test_random.sh", "stress_test_random_batchcall.sh", "batch_call.sh"]
)
def test_a_script_explains_its_options(name: str) -> None:
    done = script(name, "--help")
    assert done.returncode == 0
    assert all(option in done.stdout for option in ("--url", "--calls", "--concurrency", "--seed", "--log"))
    assert ("--max-rows" in done.stdout) == (name == "stress_test_random_batchcall.sh")


def test_the_commands_by_hand_print_what_their_page_says(server: Server) -> None:
    page = (STRESS / "commands.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```console\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    examples = [example for block in blocks for example in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)]
    assert len(examples) >= 8
    for line, output in examples:
        done = execute(["bash", "-c", line.replace("http://127.0.0.1:1313", server.url)])
        assert (done.returncode, done.stderr) == (0, ""), line
        assert done.stdout.rstrip("\n") == output.rstrip("\n"), line


# The scenarios. They run at the same time, because what they are asked here is whether they are right, not how fast.


@dataclass(frozen=True)
class Started:
    process: subprocess.Popen[str]
    out: Path


@pytest.fixture(scope="module")
def started(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Started]]:
    folder = tmp_path_factory.mktemp("reports")
    with contextlib.ExitStack() as stack:
        runs = {}
        for name in SCENARIOS:
            out = folder / name
            arguments = command("run", name, "--url", server.url, "--seconds", 3, "--out", out)
            process = subprocess.Popen(arguments, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            runs[name] = Started(stack.enter_context(process), out)
        yield runs


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_checks_every_answer_and_leaves_its_report(started: dict[str, Started], name: str) -> None:
    said, _ = started[name].process.communicate(timeout=120)
    assert started[name].process.returncode == 0, said
    assert f"Passed: {name}: all " in said
    out = started[name].out
    calls = read_csv(out / "requests.csv")
    assert len(calls) > 0
    assert {call["kind"] for call in calls} <= set(SCENARIOS[name].mix)
    wanted = {"bad row, refused": "422", "malformed": "400"}
    assert all(call["status"] == wanted.get(call["kind"], "200") and not call["failure"] for call in calls)
    report = (out / "report.html").read_text()
    assert '"response_time_percentile_0.99"' in report
    assert str(len(calls)) in report
    assert (out / "chart.png").read_bytes().startswith(b"\x89PNG")
    (total,) = [line for line in read_csv(out / "locust_stats.csv") if line["Name"] == "Aggregated"]
    assert (int(total["Request Count"]), total["Failure Count"]) == (len(calls), "0")


def test_two_servers_are_compared_in_a_table_of_ratios(server: Server, few_rows: Path, tmp_path: Path) -> None:
    with proxy(server.url) as other:
        done = stress(
            *("compare", "--url-a", server.url, "--url-b", other, "--scenario", "single", "--rounds", 1, "--seconds", 1),
            *("--data", few_rows, "--out", tmp_path),
        )
    assert done.returncode == 0, done.stdout
    ratio = re.search(r"calls/s +│ +([\d,.]+) +│ +([\d,.]+) +│ +([\d.]+) │\n", done.stdout)
    assert ratio is not None, done.stdout
    a, b, quotient = (float(figure.replace(",", "")) for figure in ratio.groups())
    assert quotient == pytest.approx(b / a, abs=0.01)
    assert {path.name for path in tmp_path.iterdir()} == {"A-1", "B-1"}
    assert len(read_csv(tmp_path / "B-1" / "requests.csv")) > 0


def test_the_capacity_is_searched_in_steps_and_said_in_one_sentence(server: Server, few_rows: Path, tmp_path: Path) -> None:
    (dashboard,) = re.findall(r"Dashboard: +(\S+)/#/serve", server.log.read_text())
    token = execute([str(Path(sys.executable).with_name("ray")), "get-auth-token"]).stdout.strip()
    done = stress(
        *("capacity", "--url", server.url, "--p99-ms", 125, "--first", 30, "--most", 30, "--step-seconds", 1),
        *("--warm-up-seconds", 1, "--data", few_rows, "--out", tmp_path, "--dashboard", dashboard, "--token", token),
    )
    *steps, sentence = done.stdout.splitlines()[1:]
    assert len(steps) >= 2, done.stdout
    assert all(re.search(r"\d calls/s for \d s: p50 [\d.]+ ms, p99 .* (holds|does not hold)$", step) for step in steps)
    said = re.fullmatch(
        r"(At least|About|Less than) \d+ one-row calls/s at p99 < 125 ms with \d Classifier and \d Preprocessor replicas "
        r"on this machine \(\d+ CPUs, shared with the load\)\.",
        sentence,
    )
    assert said is not None, sentence
    assert done.returncode == (1 if said[1] == "Less than" else 0)
    due = sorted(float(call["due_s"]) for call in read_csv(tmp_path / "step-1" / "requests.csv"))
    gaps = [after - before for before, after in pairwise(due)]
    assert len({round(gap, 4) for gap in gaps}) > len(gaps) / 2  # no metronome


def test_locusts_page_is_served_until_ctrl_c(server: Server, few_rows: Path, tmp_path: Path) -> None:
    page = f"http://127.0.0.1:{free_port()}"
    arguments = command(
        *(
            "run",
            "single",
            "--url",
            server.url,
            "--data",
            few_rows,
            "--out",
            tmp_path,
            "--web",
            "--web-port",
            page.rpartition(":")[2],
        )
    )
    with subprocess.Popen(
        arguments, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            wait_until(lambda: _requests_shown(page) > 0, "Locust's page with requests", 30)
            assert "Locust" in requests.get(page, timeout=30).text
        finally:
            os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert page in said
    assert "Traceback" not in said
    assert "FAILED: single: it was interrupted." in said
    assert process.returncode == 1
    assert (tmp_path / "report.html").exists()


def _requests_shown(page: str) -> int:
    try:
        return sum(entry["num_requests"] for entry in requests.get(f"{page}/stats/requests", timeout=30).json()["stats"])
    except requests.RequestException:
        return 0


# What goes wrong.


@contextlib.contextmanager
def proxy(target: str, *, wrong_row: bytes | None = None) -> Iterator[str]:
    """Passes requests on to ``target``, but plants one wrong answer: the first to a body that holds ``wrong_row``."""
    planted = threading.Event()
    session = requests.Session()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            with lock:  # a session is for one thread at a time
                response = session.request(self.command, f"{target}{self.path}", data=body, timeout=60)
                content = response.content
                if wrong_row is not None and wrong_row in body and not planted.is_set():
                    planted.set()
                    answers = json.loads(content)
                    for answer in answers:
                        answer["probability_positiveclass"] += 1e-9
                    content = json.dumps(answers).encode()
            self.send_response(response.status_code)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = pass_on  # noqa: N815 - the names that the base class asks for

        def log_message(self, *_: Any) -> None:
            """Nothing: the test's own output is enough."""

    class Listener(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: Any) -> None:
            """A client that has gone away is no error."""

    with session, Listener(("127.0.0.1", 0), Handler) as listener:
        thread = threading.Thread(target=listener.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.server_address[1]}"
        finally:
            listener.shutdown()
            thread.join()


@pytest.fixture
def lying(server: Server, few_rows: Path) -> Iterator[str]:
    """The service behind a proxy that once gives a wrong answer to a certain row."""
    row = json.loads((few_rows / "test.json").read_bytes())[WRONG_ROW]
    with proxy(server.url, wrong_row=json.dumps(row).encode()) as url:
        yield url


def test_one_wrong_answer_fails_a_scenario_and_its_row_is_named(lying: str, few_rows: Path, tmp_path: Path) -> None:
    done = stress("run", "single", "--url", lying, "--data", few_rows, "--seconds", 2, "--out", tmp_path)
    assert done.returncode == 1
    assert re.search(
        rf"^1 x row {WRONG_ROW} has probability_positiveclass 0\.\d+ instead of 0\.\d+$", done.stdout, re.MULTILINE
    )
    assert re.search(r"^FAILED: single: 1 of [\d,]+ calls were not answered as expected\.$", done.stdout, re.MULTILINE)
    (failure,) = read_csv(tmp_path / "locust_failures.csv")
    assert failure["Occurrences"] == "1"
    assert f"row {WRONG_ROW} has" in failure["Error"]
    assert f"row {WRONG_ROW} has" in (tmp_path / "report.html").read_text()


def test_one_wrong_answer_fails_a_script_and_its_row_is_named(lying: str, few_rows: Path, tmp_path: Path) -> None:
    done = script("stress_test.sh", "--url", lying, "--data", few_rows, "--calls", ROWS, "--log", tmp_path / "log")
    assert done.returncode == 1
    assert f"{ROWS - 1} ok, 1 failed" in done.stdout
    (wrong,) = [line for line in read_log(tmp_path / "log") if line["verdict"] != "ok"]
    assert (wrong["rows"], wrong["status"]) == (str(WRONG_ROW), "200")
    assert wrong["verdict"].startswith(f"FAILED: row {WRONG_ROW} has probability_positiveclass")


def test_answers_of_another_model_are_said_to_be_so(server: Server, few_rows: Path, tmp_path: Path) -> None:
    expected = json.loads((few_rows / "expected.json").read_bytes())
    expected["model"] = {"name": "mine", "version": "3.1.0", "digest": "f" * 64}
    (tmp_path / "test.json").write_bytes((few_rows / "test.json").read_bytes())
    (tmp_path / "expected.json").write_text(json.dumps(expected))
    for done in (
        stress("run", "single", "--url", server.url, "--data", tmp_path, "--out", tmp_path / "out"),
        script("batch_call.sh", "--url", server.url, "--data", tmp_path, "--log", tmp_path / "log"),
    ):
        assert done.returncode == 1
        assert re.fullmatch(r"Error: http://[^\n]* serves glm-26 1\.0\.0 [^\n]* of mine 3\.1\.0 [^\n]*\n", done.stderr)


def test_without_a_service_there_is_one_sentence(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    sentence = rf"Error: no service answers at {url} \(ConnectionError\): start it with `make run`\n"
    for done in (stress("run", "single", "--url", url, "--out", tmp_path), script("stress_test.sh", "--url", url)):
        assert done.returncode == 1
        assert re.fullmatch(sentence, done.stderr)
        assert done.stdout == ""


def test_rows_that_are_missing_are_generated(server: Server, tmp_path: Path) -> None:
    done = script(
        "stress_test_random.sh", "--url", server.url, "--data", tmp_path / "new", "--calls", 20, "--log", tmp_path / "log"
    )
    assert done.returncode == 0, done.stderr
    assert "is missing: generating it" in done.stderr
    for name in ("test.json", "expected.json"):
        assert (tmp_path / "new" / name).read_bytes() == (PROJECT_ROOT / "data" / name).read_bytes()


def title(process: psutil.Process) -> str:
    """What a process calls itself: Ray names a replica's after its deployment."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def test_a_replica_that_is_killed_fails_the_run(server: Server, few_rows: Path, tmp_path: Path) -> None:
    # The last test of this module: it leaves the service when that is ready again.
    # Large calls: small ones that a replica dies over are tried again, and succeed.
    arguments = command("run", "random-batch", "--url", server.url, "--data", few_rows, "--seconds", 5, "--out", tmp_path)
    records = tmp_path / "requests.csv"
    with subprocess.Popen(arguments, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        wait_until(lambda: records.exists() and records.stat().st_size > 10_000, "calls", 30)
        replicas = [one for one in server.process.children(recursive=True) if "Preprocessor" in title(one)]
        assert replicas != []
        for replica in replicas:
            replica.suspend()
        wait_until(lambda: ongoing_requests(server) >= SCENARIOS["random-batch"].stages[0].users, "that every user waits", 30)
        for replica in replicas:
            replica.kill()
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.search(r"^FAILED: random-batch: [\d,]+ of [\d,]+ calls were not answered as expected\.$", said, re.MULTILINE), (
        said
    )
    failures = [call["failure"] for call in read_csv(records) if call["failure"]]
    assert all(re.match(r"status 5\d\d instead of 200|no answer", failure) for failure in failures), set(failures)
    wait_until(lambda: requests.get(f"{server.url}/ready", timeout=30).status_code == 200, "the service is ready again", 60)
