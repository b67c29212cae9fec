"""Questions to a running service and its Ray dashboard: is it ready, which model does it serve, how many replicas run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import requests

from stress.dataset import Dataset, load_dataset, prepare_data
from stress.errors import StressError

__all__ = ["Column", "ServedModel", "count_replicas", "prepare", "read_service", "require_expected_model"]

_TIMEOUT_S = 30.0
_APPLICATION = "class-prediction"


class Column(msgspec.Struct, frozen=True):
    """A column of the model's table: ``kind`` is numeric, money, percent or categorical."""

    name: str
    kind: str


class _Schema(msgspec.Struct, frozen=True):
    columns: tuple[Column, ...]


class ServedModel(msgspec.Struct, frozen=True):
    """The part of ``GET /model`` that load tests need."""

    name: str
    version: str
    digest: str
    selected_features: tuple[str, ...]
    schema: _Schema

    def used_columns(self) -> list[Column]:
        """The columns that every row must have."""
        return [column for column in self.schema.columns if column.name in self.selected_features]


def prepare(urls: Sequence[str], data: Path, say: Callable[[str], None]) -> tuple[Dataset, ServedModel]:
    """Writes missing data files, loads them, and checks that every URL serves the expected model, which is returned.

    Raises:
        StressError: a service is missing or serves another model, or the data cannot be used.
    """
    served = [read_service(url) for url in urls]
    prepare_data(data, say)
    dataset = load_dataset(data)
    for url, model in zip(urls, served, strict=True):
        require_expected_model(url, model, dataset)
    return dataset, served[0]


def read_service(url: str) -> ServedModel:
    """The model that a ready service serves.

    Raises:
        StressError: nothing answers, the service is not ready, or it is another service.
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
        raise StressError(f"{url} is another service: GET /model does not describe a model ({error})") from error


def require_expected_model(url: str, served: ServedModel, dataset: Dataset) -> None:
    """Compares the digests of the served and the expected model.

    Raises:
        StressError: they differ, so that no answer could be compared.
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
    """The number of running replicas of each deployment, from the Ray dashboard, which may require a token.

    Raises:
        StressError: the dashboard does not say.
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
