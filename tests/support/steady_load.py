"""Steady load on a real service, each answer compared with the expected one: what a fault costs those who use the service."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np
import requests
from numpy.typing import NDArray

__all__ = ["Outcome", "SteadyLoad"]


@dataclass
class Outcome:
    """What became of the calls.

    ``refused``: 503 with Retry-After and our JSON. ``failed``: any other answer but 200, or none; ``reasons`` counts which.
    """

    answered: int = 0
    refused: int = 0
    failed: int = 0
    wrong: int = 0
    hung: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    longest_call_s: float = 0.0
    longest_refusal_s: float = 0.0
    answering_s: float = 0.0
    """Of all calls that were answered, together."""
    last_failure_s: float = 0.0
    """Since the load began, of a call that was not answered rightly."""
    longest_pause_s: float = 0.0
    """Between two answers, of whichever client: how long the service was away."""

    @property
    def sent(self) -> int:
        """All calls."""
        return self.answered + self.lost

    @property
    def lost(self) -> int:
        """Those without the right answer."""
        return self.refused + self.failed + self.wrong + self.hung

    @property
    def mean_call_s(self) -> float:
        """Of those that were answered."""
        return self.answering_s / self.answered

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.reasons.most_common())
        failures = f", {self.lost} lost ({reasons}), the last after {self.last_failure_s:.0f} s" if self.lost else ", none lost"
        return f"{self.answered} right answers{failures}, the slowest took {self.longest_call_s:.1f} s"


class SteadyLoad:
    """Clients that call one after the other, from the beginning of a ``with`` block to its end.

    Args:
        url: of the service.
        rows: to choose from.
        expected: by the model's version, the probabilities of each row.
        clients: how many call at a time.
        rows_per_call: how many rows of ``rows`` go into a call.
        pause_s: of a client between two calls.
        timeout_s: beyond it a call hangs. The default is longer than any limit of the service's own.
    """

    def __init__(
        self,
        url: str,
        rows: Sequence[Mapping[str, Any]],
        expected: Mapping[str, NDArray[np.float64]],
        *,
        clients: int = 8,
        rows_per_call: int = 1,
        pause_s: float = 0.005,
        timeout_s: float = 90.0,
    ) -> None:
        self._url = f"{url}/predict"
        self._rows = [json.dumps(row).encode() for row in rows]
        self._expected = {version: probabilities.tolist() for version, probabilities in expected.items()}
        self._rows_per_call = rows_per_call
        self._pause_s = pause_s
        self._timeout_s = timeout_s
        self._outcome = Outcome()
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._start = self._last_answer = time.monotonic()
        self._threads = [threading.Thread(target=self._call_on, args=(seed,)) for seed in range(clients)]

    def __enter__(self) -> Self:
        self._start = self._last_answer = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def answered(self) -> int:
        """Right answers so far."""
        return self._outcome.answered

    def take(self) -> Outcome:
        """What became of the calls since the last time."""
        with self._lock:
            outcome, self._outcome = self._outcome, Outcome()
            return outcome

    def _call_on(self, seed: int) -> None:
        chosen = random.Random(seed)
        with requests.Session() as session:
            while not self._is_over.is_set():
                self._call(session, [chosen.randrange(len(self._rows)) for _ in range(self._rows_per_call)])
                time.sleep(self._pause_s)

    def _call(self, session: requests.Session, indices: list[int]) -> None:
        body = b"[" + b",".join(self._rows[index] for index in indices) + b"]"
        started = time.monotonic()
        version, reason = "", ""
        try:
            response = session.post(self._url, data=body, timeout=self._timeout_s)
        except requests.Timeout:
            kind, reason = "hung", "timeout"
        except requests.RequestException as error:
            kind, reason = "failed", type(error).__name__
        else:
            version = response.headers.get("x-model-version", "")
            kind = self._judge(response, version, indices)
            reason = "" if kind == "answered" else f"{response.status_code} {response.text[:60]!r}"
        now = time.monotonic()
        with self._lock:
            outcome = self._outcome
            setattr(outcome, kind, getattr(outcome, kind) + 1)
            outcome.longest_call_s = max(outcome.longest_call_s, now - started)
            if kind == "answered":
                outcome.versions[version] += 1
                outcome.answering_s += now - started
                outcome.longest_pause_s = max(outcome.longest_pause_s, now - self._last_answer)
                self._last_answer = now
            else:
                outcome.reasons[reason] += 1
                outcome.last_failure_s = now - self._start
            if kind == "refused":
                outcome.longest_refusal_s = max(outcome.longest_refusal_s, now - started)

    def _judge(self, response: requests.Response, version: str, indices: list[int]) -> str:
        if response.status_code == requests.codes.unavailable and "retry-after" in response.headers:
            return "refused"
        if response.status_code != requests.codes.ok:
            return "failed"
        found = [
            [answer["probability_predictedclass"], answer["probability_positiveclass"], answer["predicted_class"]]
            for answer in response.json()
        ]
        if version not in self._expected:
            return "wrong"
        wanted = []
        for index in indices:
            negative, positive = self._expected[version][index]
            is_positive = positive >= 0.5  # the threshold of the models used here
            wanted.append([positive if is_positive else negative, positive, int(is_positive)])
        return "answered" if found == wanted else "wrong"
