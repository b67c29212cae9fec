"""The nasty cases of tests/corpus: the file's name begins with the status that a client gets.

From here fuzzing starts (make fuzz); what it has found is to be kept there. The same files go through a real service in
tests/integration/test_hardening.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.components.compiled import Components
from serve_app.config import PROJECT_ROOT, Limits
from serve_app.errors import MalformedJSONError, NotRowsError

CORPUS = sorted((PROJECT_ROOT / "tests" / "corpus").iterdir())
LIMITS = Limits()


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_a_nasty_body_is_rows_or_a_named_refusal(components: Components, path: Path) -> None:
    parser = components.parser(LIMITS.max_rows, max_text_characters=LIMITS.max_text_characters, max_nesting=LIMITS.max_nesting)
    try:
        problems = [problem for chunk in parser.chunks(path.read_bytes()) for problem in chunk.problems]
    except MalformedJSONError:
        found = "400"
    except NotRowsError:
        found = "422"
    else:
        found = "422" if problems else "200"
    assert found == path.name[:3]


def test_the_corpus_has_cases_of_each_kind() -> None:
    assert {path.name[:3] for path in CORPUS} == {"200", "400", "422"}
    assert len(CORPUS) > 60
