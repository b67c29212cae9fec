"""A million bodies through the parser: those of the grammar, and those that coverage leads to.

make fuzz                      # 1,000,000 bodies of the grammar, 100,000 by coverage, 200,000 over HTTP
make fuzz FUZZ_INPUTS=20000    # a short run

A body that fails is minimised and kept in .fuzz/failures. Inputs that reach new code are kept in .fuzz/corpus, from which the
next run goes on. What is worth keeping for good belongs in tests/corpus, where every test run reads it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from support.parser_comparison import Shard, compare_shard
from support.request_grammar import CORPUS

from serve_app.config import PROJECT_ROOT

pytestmark = pytest.mark.fuzz

INPUTS = int(os.environ.get("FUZZ_INPUTS", "1000000"))
SEED = int(os.environ.get("FUZZ_SEED", "26"))
KEPT = PROJECT_ROOT / ".fuzz"
SHARD_INPUTS = 20_000
LEAST_WELL_FORMED = 0.5


def test_bodies_of_the_grammar_are_read_as_by_the_reference_and_scored_alike_in_batches() -> None:
    starts = range(0, INPUTS, SHARD_INPUTS)
    shards = [Shard(seed=SEED * 1_000_000 + start, inputs=min(SHARD_INPUTS, INPUTS - start)) for start in starts]
    started = time.monotonic()
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        done = list(pool.map(compare_shard, shards))
    took_s = time.monotonic() - started
    outcomes = sum((shard.outcomes for shard in done), Counter[str]())
    well_formed, rows = sum(shard.well_formed for shard in done), sum(shard.rows for shard in done)
    print(
        f"\n{outcomes.total():,} bodies with {rows:,} rows in {took_s:.0f} s, {outcomes.total() / took_s:,.0f}/s; "
        f"{well_formed / outcomes.total():.0%} JSON; {dict(outcomes)}"
    )
    differences = [difference for shard in done for difference in shard.differences]
    assert differences == [], [keep_failure(body) for _, body in differences]
    assert outcomes.total() == INPUTS - INPUTS % 2
    assert well_formed >= LEAST_WELL_FORMED * INPUTS
    assert min(outcomes[outcome] for outcome in ("all rows good", "some rows bad", "malformed")) > INPUTS / 50


def test_inputs_that_reach_new_code_are_read_as_by_the_reference() -> None:
    runs = max(1000, INPUTS // 10)
    corpus = KEPT / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    before = len(list(corpus.iterdir()))
    limits = [f"-runs={runs}", f"-seed={SEED}", "-max_len=8192", "-timeout=10", "-rss_limit_mb=2048"]
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("rows_target.py"), *limits, f"-artifact_prefix={KEPT}/", corpus, CORPUS],
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT / "tests")},
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"Done {runs} runs" in done.stderr
    print(done.stderr.strip().splitlines()[-1], f"{before} inputs were kept before, {len(list(corpus.iterdir()))} are now")


def keep_failure(body: bytes) -> Path:
    """Writes a body to .fuzz/failures."""
    path = KEPT / "failures" / f"{hashlib.sha256(body).hexdigest()[:16]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    return path
