from __future__ import annotations

import pytest

from serve_app.scoring.separators import find_separator


@pytest.mark.parametrize(
    ("text", "separator"),
    [
        ("a,b\n1,2\n", ","),
        ("a;b\n1,5;2,5\n", ";"),
        ('a,"x;y;z"\n1,p;q;r\n', ","),
        ("a\tb\r\n1\t2\r\n", "\t"),
        ("a|b\r1|2\r", "|"),
        ("a;b;c\n1;2;3\n4;5\n", ";"),
        ("one column\n1\n", ","),
        ("", ","),
    ],
)
def test_the_separator_is_the_one_that_cuts_lines_as_the_header(text: str, separator: str) -> None:
    assert find_separator(text) == separator
