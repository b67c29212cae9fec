from __future__ import annotations

import pytest

from benchmarks.load import parse_wrk
from stress.errors import StressError

WRK_OUTPUT = """\
Running 2s test @ http://127.0.0.1:21300/predict
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     4.62ms    1.51ms  24.11ms   84.64%
  8001 requests in 2.01s, 2.51MB read
  Non-2xx or 3xx responses: 3
{"seconds":2.010000,"requests":8001,"p50_ms":4.082,"p99_ms":14.870,"max_ms":24.110,\
"connect_errors":1,"read_errors":0,"write_errors":0,"status_errors":3,"timeouts":2}
"""


def test_wrks_line_of_json_is_found_and_all_kinds_of_errors_are_added_up() -> None:
    result = parse_wrk(WRK_OUTPUT)
    assert (result.requests, result.p50_ms, result.p99_ms, result.max_ms) == (8001, 4.082, 14.87, 24.11)
    assert result.requests_per_s == pytest.approx(3980.6, abs=0.1)
    assert result.errors == 6


def test_wrk_without_a_result_is_an_error() -> None:
    with pytest.raises(StressError, match="no result"):
        parse_wrk("unable to connect to 127.0.0.1:21300 Connection refused")
