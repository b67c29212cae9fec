"""What faults cost those who use the service: things happen to a real one under steady load whose answers are all checked."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
import requests
from fault_target import AT_LENGTH, ROOM, SOAK_SECONDS, Target
from serving import wait_until
from steady_load import Outcome, SteadyLoad

from serve_app.config import PROJECT_ROOT

Report = Callable[[str, Outcome, str], None]

pytestmark = pytest.mark.faults

WARM_UP_CALLS = 100
RECOVERY_TIMEOUT_S = 60


def assert_nothing_wrong(outcome: Outcome) -> None:
    assert (outcome.wrong, outcome.hung) == (0, 0), outcome


def wait_for_calls(load: SteadyLoad, calls: int, timeout_s: float = RECOVERY_TIMEOUT_S) -> None:
    """Until so many more calls have been answered."""
    enough = load.answered() + calls
    wait_until(lambda: load.answered() >= enough, f"{calls} right answers", timeout_s)


@pytest.mark.parametrize("deployment", ["Classifier", "Preprocessor"])
def test_a_killed_replica_fails_at_most_what_it_was_working_on(target: Target, report: Report, deployment: str) -> None:
    clients = 6
    with target.load(clients=clients) as load:
        wait_for_calls(load, WARM_UP_CALLS)
        load.take()
        (replica,) = target.processes(f"ServeReplica:class-prediction:{deployment}")
        replica.kill()
        wait_until(lambda: len(target.processes(f"ServeReplica:class-prediction:{deployment}")) > 0, "a new replica", 60)
        wait_for_calls(load, 200)
        outcome = load.take()
    report(
        f"the only {deployment} replica is killed",
        outcome,
        f"{clients} clients; waiting requests are answered by the next replica",
    )
    assert_nothing_wrong(outcome)
    assert outcome.failed + outcome.refused <= clients, outcome


def test_haproxy_comes_back_by_itself(target: Target, report: Report) -> None:
    with target.load() as load:
        wait_for_calls(load, WARM_UP_CALLS)
        load.take()
        for haproxy in target.processes("haproxy -"):
            haproxy.kill()
        wait_for_calls(load, 200)
        outcome = load.take()
        wait_for_calls(load, 200)
        afterwards = load.take()
    report("HAProxy is killed", outcome, "connections are refused until Ray Serve has started another")
    assert_nothing_wrong(outcome)
    assert afterwards.failed == 0, afterwards


def open_sockets(target: Target) -> int:
    """Of HAProxy and the preprocessors."""
    processes = target.processes("ServeReplica:class-prediction:Preprocessor") + target.processes("haproxy -")
    return sum(len(process.net_connections("tcp")) for process in processes)


def test_clients_that_stall_trickle_or_leave_harm_nobody_and_their_connections_are_freed(
    target: Target, report: Report
) -> None:
    address = urlsplit(target.server.url)
    row = json.dumps(target.rows[0]).encode()
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(row)
    wait_until(lambda: target.server.predict(row).status_code == 200, "an answer", 60)
    before = open_sockets(target)

    def connect() -> socket.socket:
        return socket.create_connection((str(address.hostname), int(address.port or 80)), timeout=60)

    with target.load() as load, ExitStack() as clients:
        wait_for_calls(load, WARM_UP_CALLS)
        load.take()
        for _ in range(10):
            for said in (head + row[:30], head[:20], head + row):  # half a body; half a head; all, and gone at once
                client = connect()
                client.sendall(said)
                client.close()
        stalled = [clients.enter_context(closing(connect())) for _ in range(10)]
        for client in stalled:
            client.sendall(head + row[:10])
        trickling = [clients.enter_context(closing(connect())) for _ in range(10)]
        deadline = time.monotonic() + 12  # longer than a head may take
        for sent in range(10_000):
            for client in trickling:
                with_errors_ignored(client, head[sent % len(head) : sent % len(head) + 1])
            if time.monotonic() > deadline:
                break
            time.sleep(0.5)
        answers = [client.recv(1000) for client in stalled]
        wait_for_calls(load, 100)
        outcome = load.take()
    report(
        "clients leave in the middle, stall, trickle (50 beside 4 good ones)",
        outcome,
        "who stalls gets 408 after the time limit",
    )
    assert_nothing_wrong(outcome)
    assert outcome.failed == outcome.refused == 0, outcome
    assert all(answer.startswith(b"HTTP/1.1 408 ") for answer in answers), answers
    wait_until(lambda: open_sockets(target) <= before + 8, "freed connections", 90)  # some idle ones of the load are kept


def with_errors_ignored(client: socket.socket, data: bytes) -> None:
    try:
        client.sendall(data)
    except OSError:
        return  # the service has closed it


def serving_memory(target: Target) -> int:
    """Bytes of the replicas and HAProxy."""
    processes = target.processes("ServeReplica") + target.processes("haproxy -")
    return sum(process.memory_info().rss for process in processes)


def test_far_beyond_capacity_the_excess_is_refused_at_once_and_memory_stays_bounded(target: Target, report: Report) -> None:
    seconds = 120 if AT_LENGTH else 15
    before = serving_memory(target)
    with target.load(clients=2 * ROOM, pause_s=0.0) as load:
        wait_for_calls(load, WARM_UP_CALLS)
        load.take()
        time.sleep(seconds)
        during = serving_memory(target)
        outcome = load.take()
    with target.load() as load:
        wait_for_calls(load, 200)
        afterwards = load.take()
    grown = (during - before) / 2**20
    report(
        f"{2 * ROOM} clients without pause for {seconds} s on a service with room for {ROOM} requests",
        outcome,
        f"memory of replicas and HAProxy {grown:+.0f} MiB; longest call afterwards {afterwards.longest_call_s * 1000:.0f} ms",
    )
    assert_nothing_wrong(outcome)
    assert outcome.failed == 0, outcome
    assert outcome.refused > 0
    assert afterwards.failed == afterwards.refused == 0, afterwards
    assert grown < 200


def test_versions_and_replicas_come_and_go_without_a_failed_or_wrong_answer(target: Target, report: Report) -> None:
    rounds = 20 if AT_LENGTH else 1
    damaged = target.folder / "damaged"
    damaged.mkdir(exist_ok=True)
    (damaged / "manifest.json").write_text("{}")

    def run(*arguments: object) -> tuple[int, str]:
        command = [sys.executable, "-m", "serve_app", *map(str, arguments), "--address", target.server.ray_address]
        done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=300, check=False)
        return done.returncode, done.stderr

    total = Outcome()
    with target.load() as load:
        wait_for_calls(load, WARM_UP_CALLS)
        load.take()
        for _ in range(rounds):
            assert run("deploy", target.folder / "2.0.0") == (0, "")
            assert run("deploy", damaged)[0] == 1
            assert run("rollback") == (0, "")
        total = load.take()
    report(f"a good version, a bad one, and back, {rounds} times", total, f"answers by version: {dict(total.versions)}")
    assert_nothing_wrong(total)
    assert total.failed == total.refused == 0, total
    assert set(total.versions) == {"1.0.0", "2.0.0"}


def test_damage_to_the_components_of_a_running_service_changes_no_answer(target: Target, report: Report) -> None:
    mine = target.folder / "2.0.0" / "model.pkl"
    whole = mine.read_bytes()
    command = [
        sys.executable,
        "-m",
        "serve_app",
        "deploy",
        str(target.folder / "2.0.0"),
        "--address",
        target.server.ray_address,
    ]
    assert subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, timeout=180, check=False).returncode == 0
    with target.load() as load:
        load.take()
        mine.write_bytes(whole[: len(whole) // 2])
        wait_for_calls(load, 200)
        outcome = load.take()
        checked = subprocess.run(
            [sys.executable, "-m", "serve_app", "check", str(target.folder / "2.0.0")],
            cwd=PROJECT_ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    mine.write_bytes(whole)
    report(
        "the components on disk are cut in half while they serve",
        outcome,
        "a start, a deploy and a check refuse them in one line",
    )
    assert_nothing_wrong(outcome)
    assert outcome.failed == outcome.refused == 0, outcome
    assert set(outcome.versions) == {"2.0.0"}
    assert checked.returncode == 1
    assert checked.stderr.count("\n") == 1


def test_hours_of_mixed_load_leave_memory_and_descriptors_flat(target: Target, report: Report) -> None:
    watched: dict[psutil.Process, list[tuple[float, int, int]]] = {
        process: []
        for name in ("ServeReplica", "haproxy -", "ServeController", "HAProxyManager", "ProxyActor", "raylet")
        for process in target.processes(name)
    }
    with target.load() as load, target.load(clients=1, rows_per_call=100, pause_s=0.05) as batches:
        wait_for_calls(load, WARM_UP_CALLS)
        load.take()
        started = time.monotonic()
        while (elapsed := time.monotonic() - started) < SOAK_SECONDS:
            for process in list(watched):
                try:
                    with process.oneshot():
                        watched[process].append((elapsed, process.memory_info().rss, process.num_fds()))
                except psutil.NoSuchProcess:  # a replica that was not needed any more
                    del watched[process]
            time.sleep(SOAK_SECONDS / 100)
        outcome, large = load.take(), batches.take()
    slopes, leaks = {}, {}
    for process, samples in watched.items():
        at, memory, descriptors = np.array(samples[len(samples) // 3 :], dtype=float).T  # the first third fills caches
        slopes[process.name()] = float(np.polyfit(at, memory, 1)[0]) * 60 / 2**20
        leaks[process.name()] = int(descriptors[-10:].max() - descriptors[:10].max())
    steepest = max(slopes, key=lambda name: slopes[name])
    report(
        f"{SOAK_SECONDS / 60:.0f} minutes of mixed load, one row and 100 rows a call",
        outcome,
        f"and {large.answered:,} calls of 100 rows; memory of the process that grew most, {steepest}: "
        f"{slopes[steepest]:+.2f} MiB a minute; descriptors {max(leaks.values()):+d}",
    )
    for found in (outcome, large):
        assert_nothing_wrong(found)
        assert found.failed == found.refused == 0, found
    assert all(slope < 12 for slope in slopes.values()), slopes  # noise of a short run; a long one is what to look at
    assert all(leak <= 8 for leak in leaks.values()), leaks


def test_sigterm_answers_what_is_in_flight_and_refuses_what_comes_later(target: Target, report: Report) -> None:
    # The last test: it ends the service.
    rows = target.rows * 170  # 10,200 rows
    body = json.dumps(rows).encode()
    statuses: list[int | str] = []
    outcome = Outcome()

    def call() -> None:
        try:
            response = requests.post(f"{target.server.url}/predict", data=body, timeout=120)
            statuses.append(response.status_code)
            answers = response.json()
            expected = target.expected[response.headers["x-model-version"]][:, 1].tolist() * 170
            right = [answer["probability_positiveclass"] for answer in answers] == expected
            outcome.answered += right
            outcome.wrong += not right
        except requests.RequestException as error:
            statuses.append(type(error).__name__)
            outcome.failed += 1

    threads = [threading.Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    time.sleep(0.3 + random.random() * 0.2)  # in the middle of them
    target.server.process.terminate()
    for thread in threads:
        thread.join()
    started = time.monotonic()
    gone = target.server.process.wait(60)
    report(
        "SIGTERM during six calls of 10,200 rows",
        outcome,
        f"all processes ended {time.monotonic() - started:.0f} s after the last answer",
    )
    assert gone == 0
    assert statuses == [200] * 6
    assert outcome.wrong == 0
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{target.server.url}/health", timeout=5)
    assert not [process for process in psutil.process_iter() if process.pid == target.server.process.pid]
