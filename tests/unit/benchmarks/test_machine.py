from __future__ import annotations

import pytest

from benchmarks.machine import CpuClock, cpu_clock, shares


def test_the_cpu_line_is_read_as_proc_stat_documents_it() -> None:
    parts = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice")
    clock = cpu_clock(dict(zip(parts, (1.0, 0.2, 0.3, 4.0, 0.5, 0.06, 0.07, 0.8, 0.09, 0.0), strict=True)))
    assert clock.busy_s == pytest.approx(1.63)  # user, nice, system, irq, softirq; guest is part of user
    assert clock.steal_s == pytest.approx(0.8)
    assert clock.total_s == pytest.approx(6.93)


def test_others_are_what_was_busy_without_us_and_what_was_stolen() -> None:
    found = shares(CpuClock(100, 50, 1), CpuClock(110, 57, 2), ours_s=4)
    assert found.others == pytest.approx(0.4)  # 7 s busy less our 4 s, and 1 s stolen, of 10 s
    assert found.steal == pytest.approx(0.1)


def test_the_share_of_others_is_never_negative() -> None:
    assert shares(CpuClock(0, 0, 0), CpuClock(10, 5, 0), ours_s=5.01) == (0.0, 0.0)
    assert shares(CpuClock(1, 1, 1), CpuClock(1, 1, 1), ours_s=0) == (0.0, 0.0)
