"""Prints the time in seconds that orjson needs to decode a file. It runs in this environment: the service has no orjson.

python -m benchmarks.rivals.fastapi_numpy.decode FILE SECONDS
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import orjson

from benchmarks.timing import median_time

if __name__ == "__main__":
    body = Path(sys.argv[1]).read_bytes()
    print(median_time(partial(orjson.loads, body), float(sys.argv[2])))
