from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.scoring import score

from serve_app.components.compiled import Components
from serve_app.config import PROJECT_ROOT
from serve_app.errors import InvalidRowsError, NotRowsError
from serve_app.offline.expected_answers import write_expectations

DATA = PROJECT_ROOT / "data"


def test_what_is_expected_of_the_test_rows_is_what_the_model_makes_of_them(components: Components) -> None:
    content = (DATA / "test.json").read_bytes()
    expected = json.loads((DATA / "expected.json").read_bytes())
    found = score(components, json.loads(content))
    assert np.array([answer["probabilities"] for answer in expected["answers"]]) == pytest.approx(found, abs=1e-12)
    assert [answer["predicted_class"] for answer in expected["answers"]] == (found[:, 1] >= 0.5).astype(int).tolist()
    assert expected["rows_sha256"] == hashlib.sha256(content).hexdigest()
    assert expected["model"] == {"name": "glm-26", "version": "1.0.0", "digest": components.digest}


def test_rows_are_scored_as_they_are_spelled(tmp_path: Path, components: Components, example: dict[str, Any]) -> None:
    rows, out = tmp_path / "rows.json", tmp_path / "expected.json"
    as_text = {name: None if value is None else str(value) for name, value in example.items()}
    rows.write_text(json.dumps([example, as_text, example | {"x5": "someday"}]))
    first, text, unknown = write_expectations(rows, out, components).answers
    assert first.probabilities[1] == 0.36208864382410294
    assert text == first
    assert unknown != first
    assert json.loads(out.read_bytes())["answers"][0] == {"probabilities": list(first.probabilities), "predicted_class": 0}


def test_no_rows_have_no_answers(tmp_path: Path, components: Components) -> None:
    (tmp_path / "rows.json").write_text("[]")
    assert write_expectations(tmp_path / "rows.json", tmp_path / "out.json", components).answers == ()


@pytest.mark.parametrize(("content", "error"), [("7", NotRowsError), ('[{"x53": 1}]', InvalidRowsError)])
def test_rows_that_the_service_would_refuse_are_refused_here(
    tmp_path: Path, components: Components, content: str, error: type[Exception]
) -> None:
    (tmp_path / "rows.json").write_text(content)
    with pytest.raises(error):
        write_expectations(tmp_path / "rows.json", tmp_path / "out.json", components)
    assert not (tmp_path / "out.json").exists()
