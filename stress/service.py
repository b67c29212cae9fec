"""What is served at a URL: whether it is ready, which model it is, and how many replicas there are."""

from __future__ import annotations

import msgspec
import requests

from stress.dataset import Dataset
from stress.errors import StressError

__all__ = ["Column", "ServedModel", "count_replicas", "read_service", "require_expected_model"]

_TIMEOUT_S = 30.0
_APPLICATION = "class-prediction"


class Column(msgspec.Struct, frozen=True):
    """A column of the model's table: ``kind`` is numeric, money, percent or categorical."""

    name: str
    kind: str


class _Schema(msgspec.Struct, frozen=True):
    columns: tuple[Column, ...]


class ServedModel(msgspec.Struct, frozen=True):
    """What load tests need of ``GET /model``."""

    name: str
    version: str
    digest: str
    selected_features: tuple[str, ...]
    schema: _Schema

    def used_columns(self) -> list[Column]:
        """The columns that a row must have."""
        return [column for column in self.schema.columns if column.name in self.selected_features]


def read_service(url: str) -> ServedModel:
    """The model that a ready service serves.

    Raises:
        StressError: nothing answers there, it is not ready, or it is another service.
    """
    try:
        ready = requests.get(f"{url}/ready", timeout=_TIMEOUT_S)
        model = requests.get(f"{url}/model", timeout=_TIMEOUT_S)
    except requests.RequestException as error:
        raise StressError(f"no service answers at {url} ({type(error).__name__}): start it with `make run`") from error
    if ready.status_code != 200:
        raise StressError(f"the service at {url} is not ready: GET /ready has status {ready.status_code}")
    try:
        return msgspec.json.decode(model.content, type=ServedModel)
    except msgspec.DecodeError as error:
        raise StressError(f"what answers at {url} is another service: GET /model says no model ({error})") from error


def require_expected_model(url: str, served: ServedModel, dataset: Dataset) -> None:
    """Compares the digests of the served and the expected model.

    Raises:
        StressError: they differ; every answer would be compared with another model's.
    """
    expected = dataset.expected.model
    if served.digest != expected.digest:
        raise StressError(
            f"{url} serves {served.name} {served.version} ({served.digest[:12]}), but the answers in "
            f"{dataset.path.with_name('expected.json')} are those of {expected.name} {expected.version} "
            f"({expected.digest[:12]}): run `python -m serve_app expect {dataset.path} --components FOLDER` with the folder "
            "that is served"
        )


def count_replicas(dashboard: str, token: str | None) -> dict[str, int]:
    """Running replicas of each deployment, by the Ray dashboard at ``dashboard``, which may ask for a token.

    Raises:
        StressError: it does not say.
    """
    try:
        response = requests.get(
            f"{dashboard.rstrip('/')}/api/serve/applications/",
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=_TIMEOUT_S,
        )
        response.raise_for_status()
        deployments = response.json()["applications"][_APPLICATION]["deployments"]
        return {
            name: sum(replica["state"] == "RUNNING" for replica in deployment["replicas"])
            for name, deployment in deployments.items()
        }
    except (requests.RequestException, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise StressError(f"the Ray dashboard at {dashboard} does not say how many replicas there are: {reason}") from error
