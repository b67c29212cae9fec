from __future__ import annotations

import msgspec
import pytest

from stress.dataset import Dataset
from stress.errors import StressError
from stress.service import ServedModel, count_replicas, read_service, require_expected_model


def test_answers_of_another_model_than_the_served_one_are_not_compared(dataset: Dataset, served: ServedModel) -> None:
    require_expected_model("http://h", served, dataset)
    other = msgspec.structs.replace(served, version="2.0.0", digest="0" * 64)
    with pytest.raises(
        StressError, match=r"^http://h serves glm-26 2\.0\.0 \(000000000000\), but [^\n]* of glm-26 1\.0\.0 [^\n]*$"
    ):
        require_expected_model("http://h", other, dataset)


def test_only_the_columns_that_the_model_uses_are_needed(served: ServedModel) -> None:
    assert {column.name for column in served.used_columns()} == set(served.selected_features)


def test_a_server_that_does_not_answer_is_one_sentence() -> None:
    with pytest.raises(StressError, match=r"^no service answers at http://127\.0\.0\.1:9 \(ConnectionError\): start it"):
        read_service("http://127.0.0.1:9")
    with pytest.raises(StressError, match=r"^the Ray dashboard at http://127\.0\.0\.1:9 does not say how many replicas"):
        count_replicas("http://127.0.0.1:9", "a token")
