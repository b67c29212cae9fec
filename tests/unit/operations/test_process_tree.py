"""The processes below this one."""

from __future__ import annotations

from unittest.mock import Mock

import psutil

from serve_app.operations.process_tree import processes_under


def test_a_process_that_ends_during_the_search_is_not_found() -> None:
    ended, other, ours = Mock(), Mock(), Mock()
    ended.name.side_effect = psutil.NoSuchProcess(1)
    other.name.return_value, ours.name.return_value = "raylet", "haproxy"
    assert processes_under(Mock(children=Mock(return_value=[ended, other, ours])), "haproxy") == [ours]
