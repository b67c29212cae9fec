"""Roll-outs of a real service, whose clients meanwhile get right answers of one version or the other."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests
from support.applications import Applications
from support.own_tables import mixed_table, write_csv
from support.scoring import score
from support.serving import Server, wait_until
from support.steady_load import SteadyLoad
from support.variants import publish_variant

from serve_app.components.compiled import Components
from serve_app.components.saving import save_components
from serve_app.config import PROJECT_ROOT
from serve_app.training.train import train

pytestmark = pytest.mark.slow

RELEASED = ("1.5.0", "2.0.0", "3.0.0")


class Versions:
    """Folders of components by version, and a service that began with the first."""

    def __init__(self, server: Server, folder: Path, components: dict[str, Components], rows: list[dict[str, Any]]) -> None:
        self.server = server
        self.folder = folder
        self.rows = rows
        self.label = {version: loaded.version_label for version, loaded in components.items()}
        self.expected = {loaded.version_label: score(loaded, rows) for loaded in components.values()}

    def load(self, **options: Any) -> SteadyLoad:
        return SteadyLoad(self.server.url, self.rows, self.expected, **{"clients": 4, "pause_s": 0.02, **options})

    def rollout(self) -> dict[str, Any]:
        found: dict[str, Any] = requests.get(f"{self.server.url}/model", timeout=30).json()["rollout"]
        return found

    def rejected(self) -> dict[str, str]:
        """Why folders are not used, by folder; ten calls reach both replicas."""
        told = [{each["components"]: each["reason"] for each in self.rollout()["rejected"]} for _ in range(10)]
        assert all(one == told[0] for one in told)
        return told[0]

    def serving(self) -> str:
        return str(self.rollout()["serving"]["version"])

    def serve_app(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        address = ["--address", self.server.ray_address]
        command = [sys.executable, "-m", "serve_app", *map(str, arguments), *address]
        return subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=180, check=False)


@pytest.fixture(scope="module")
def versions(
    tmp_path_factory: pytest.TempPathFactory, applications: Applications, components: Components, make_rows: Any
) -> Versions:
    folder = tmp_path_factory.mktemp("versions")
    released = {version: publish_variant(folder / version, version, float(version[:3]) / 4) for version in RELEASED}
    return Versions(applications.server, folder, {"1.0.0": components, **released}, make_rows(50, 8))


def test_versions_take_over_and_come_back_while_every_call_gets_a_right_answer_of_one_of_them(versions: Versions) -> None:
    with versions.load(rows_per_call=3, pause_s=0.1) as load:
        for command, before, after in (
            (["deploy", versions.folder / "2.0.0"], "1.0.0", "2.0.0"),
            (["deploy", versions.folder / "3.0.0"], "2.0.0", "3.0.0"),
            (["rollback"], "3.0.0", "2.0.0"),
        ):
            done = versions.serve_app(*command)
            assert (done.returncode, done.stderr) == (0, "")
            said = (
                rf"glm-26 {after} serves \(manifest \w{{12}}\): 2 Preprocessor and [12] Classifier\n"  # the load may want two
            )
            assert re.fullmatch(said, done.stdout)
            during = load.take()
            wait_until(lambda: load.answered() > 50, "answers", 60)
            since = load.take()
            assert set(during.versions) == {versions.label[before], versions.label[after]}
            assert set(since.versions) == {versions.label[after]}
            for outcome in (during, since):
                assert (outcome.failed, outcome.wrong, outcome.hung, outcome.refused) == (0, 0, 0, 0), outcome
    assert versions.rollout()["previous"]["version"] == "3.0.0"


def test_damaged_components_never_serve_and_the_reason_is_said_in_a_line(versions: Versions) -> None:
    folder = versions.folder / "damaged"
    shutil.copytree(versions.folder / "3.0.0", folder)
    content = (folder / "scaler.pkl").read_bytes()
    (folder / "scaler.pkl").write_bytes(content[: len(content) // 2])
    done = versions.serve_app("deploy", folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"Error: {folder}/scaler\.pkl: its SHA-256 is [^\n]*\n", done.stderr)
    assert versions.serving() == "2.0.0"
    assert versions.rejected()[str(folder)].startswith(f"{folder}/scaler.pkl: its SHA-256 is ")


VANISH = """
import pathlib, shutil, sys
from serve_app.operations import release

verify = release.load_components

def verify_and_remove(folder, trust):
    loaded = verify(folder, trust)
    shutil.rmtree(folder)
    return loaded

release.load_components = verify_and_remove
release.deploy(pathlib.Path(sys.argv[1]), address=sys.argv[2])
"""


def test_a_version_that_a_replica_cannot_use_serves_nowhere(versions: Versions) -> None:
    folder = versions.folder / "vanishing"  # sound when it is verified, gone when the replicas look
    shutil.copytree(versions.folder / "3.0.0", folder)
    command = [sys.executable, "-c", VANISH, str(folder), versions.server.ray_address]
    publish_variant(folder, "4.0.0")
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 1
    reason = f"not deployed, because a Classifier cannot use it: {folder}/manifest.json: cannot be read"
    assert f"ReleaseError: {reason}" in done.stderr
    assert versions.serving() == "2.0.0"
    assert versions.rejected()[str(folder)].startswith(reason)
    publish_variant(folder, "4.0.0")
    for arguments in (("deploy", folder, "--shadow", "0.5"), ("rollback",)):  # nothing of the refusal is left once it is there
        assert versions.serve_app(*arguments).returncode == 0
    assert str(folder) not in versions.rejected()


def test_another_model_of_the_name_and_number_that_serves_is_refused(versions: Versions) -> None:
    publish_variant(versions.folder / "twin", "2.0.0", shift=-1)
    done = versions.serve_app("deploy", versions.folder / "twin")
    assert done.returncode == 1
    assert "glm-26 2.0.0 serves already, with other contents: give it another version" in done.stderr


def test_a_canary_answers_its_share_and_a_shadow_nothing_until_rollback_ends_them(versions: Versions) -> None:
    assert versions.serve_app("deploy", versions.folder / "1.5.0", "--shadow", "1").returncode == 0
    done = versions.serve_app("deploy", versions.folder / "3.0.0", "--canary", "0.25")
    assert (done.returncode, done.stderr) == (0, "")
    assert "glm-26 3.0.0 is its canary, with 25% of the requests" in done.stdout
    assert "glm-26 1.5.0 is its shadow, with 100% of the requests" in done.stdout
    assert versions.rollout()["shadow"]["version"] == "1.5.0"
    with versions.load() as load:
        wait_until(lambda: load.answered() > 1000, "answers", 120)
        outcome = load.take()
    assert (outcome.failed, outcome.wrong) == (0, 0), outcome
    assert set(outcome.versions) == {versions.label["2.0.0"], versions.label["3.0.0"]}
    share = outcome.versions[versions.label["3.0.0"]] / outcome.answered
    assert abs(share - 0.25) < 5 * math.sqrt(0.25 * 0.75 / outcome.answered)

    assert versions.serve_app("rollback").returncode == 0
    with versions.load() as load:
        wait_until(lambda: load.answered() > 100, "answers", 60)
        assert set(load.take().versions) == {versions.label["2.0.0"]}
    assert versions.rollout()["shadow"] is None


def test_models_that_share_a_version_are_told_apart_by_every_answer(versions: Versions) -> None:
    other = publish_variant(versions.folder / "other", "2.0.0", shift=-1, name="other")
    assert versions.serve_app("deploy", versions.folder / "other", "--canary", "0.5").returncode == 0
    versions.expected[other.version_label] = score(other, versions.rows)
    with versions.load() as load:
        wait_until(lambda: load.answered() > 200, "answers", 60)
        outcome = load.take()
    assert (outcome.failed, outcome.wrong) == (0, 0), outcome
    assert set(outcome.versions) == {versions.label["2.0.0"], other.version_label}
    assert versions.serve_app("rollback").returncode == 0


def test_a_model_of_another_table_is_refused_unless_its_rows_are_wanted(versions: Versions) -> None:
    folder = versions.folder / "another table"
    draft, _ = train(write_csv(versions.folder / "table.csv", mixed_table()), target="bought", method="logit", version="9.0.0")
    save_components(folder, draft)
    refused = versions.serve_app("deploy", folder)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "needs other rows than the model that serves:\n" in refused.stderr
    assert "\n  number: new; clients must send it (numeric)\n" in refused.stderr
    assert "--allow-schema-change" in refused.stderr
    assert versions.serving() == "2.0.0"

    done = versions.serve_app("deploy", folder, "--allow-schema-change")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Clients must send other rows:\n" in done.stdout
    assert "\n  number: new; clients must send it (numeric)\n" in done.stdout
    assert versions.serving() == "9.0.0"
    assert versions.serve_app("rollback").returncode == 0
    assert versions.serving() == "2.0.0"


def test_a_folder_that_was_moved_is_served_from_where_it_is_now(versions: Versions) -> None:
    moved = versions.folder / "moved"
    previous = versions.rollout()["previous"]
    shutil.copytree(versions.folder / "2.0.0", moved)
    done = versions.serve_app("deploy", moved)
    assert (done.returncode, done.stderr) == (0, "")
    rollout = versions.rollout()
    assert rollout["serving"]["components"] == str(moved)
    assert rollout["serving"]["version"] == "2.0.0"
    assert rollout["previous"] == previous


HOLD = """
import sys
from serve_app.operations import release

with release._connected(sys.argv[1]) as service, release.hold_rollout_lock(service.name, "deploy /elsewhere"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_roll_out_at_a_time_and_none_once_its_process_is_killed(versions: Versions) -> None:
    command = [sys.executable, "-c", HOLD, versions.server.ray_address]
    before = versions.rollout()
    with subprocess.Popen(command, cwd=PROJECT_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            for arguments in (("deploy", versions.folder / "3.0.0"), ("rollback",)):
                done = versions.serve_app(*arguments)
                assert (done.returncode, done.stdout) == (1, "")
                said = rf"deploy /elsewhere by \S+ on \S+ \(process {holder.pid}\), for \d+ s"
                assert re.match(rf"Error: another roll-out is under way: {said};", done.stderr)
            assert versions.rollout() == before
        finally:
            holder.kill()
    wait_until(lambda: versions.serve_app("deploy", versions.folder / "moved").returncode == 0, "the lock is free", 60)


INTERFERE = """
import pathlib, sys
from serve_app.operations import release
from serve_app.serving.rollout import ModelReference, Rollout

def interfere(service, after, before):
    service._put(Rollout(serving=ModelReference(components=sys.argv[3]), previous=before.serving))
    raise release.ReleaseError("not all replicas have switched")

release._Service._wait_for = interfere
release.deploy(pathlib.Path(sys.argv[2]), address=sys.argv[1])
"""


def test_a_failed_roll_out_puts_back_only_what_it_has_put_there_itself(versions: Versions) -> None:
    folders = (str(versions.folder / "3.0.0"), str(versions.folder / "1.5.0"))
    command = [sys.executable, "-c", INTERFERE, versions.server.ray_address, *folders]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert "ReleaseError: not all replicas have switched" in done.stderr
    wait_until(lambda: versions.serving() == "1.5.0", "what another hand has put there", 60)
