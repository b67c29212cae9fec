"""What a replica holds of bodies, and what it refuses to hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api.body_budget import SMALL_BYTES, BodyBudget, Reservation
from serve_app.errors import OverloadedError

MB = 1024 * 1024


def test_requests_are_refused_when_their_bytes_have_no_room_beside_the_others() -> None:
    budget = BodyBudget(100 * MB)
    first, second = Reservation(budget), Reservation(budget)
    first.grow(60 * MB)
    second.grow(40 * MB)
    with pytest.raises(OverloadedError):
        second.grow(1 * MB)
    second.release()
    first.grow(40 * MB)
    assert budget.held_bytes == 100 * MB


def test_one_body_alone_is_admitted_whatever_its_size() -> None:
    budget = BodyBudget(100 * MB)
    alone, other = Reservation(budget), Reservation(budget)
    alone.grow(99 * MB)
    alone.grow(99 * MB)
    with pytest.raises(OverloadedError):
        other.grow(2 * MB)
    alone.release()
    other.grow(2 * MB)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 50)), max_size=60))
def test_what_is_given_back_is_what_was_taken(steps: list[tuple[int, int]]) -> None:
    budget = BodyBudget(100 * MB)
    requests = [Reservation(budget) for _ in range(4)]
    sizes = [0] * 4
    for number, count in steps:
        if number == 4:
            for index, request in enumerate(requests):
                request.release()
                request.release()
                sizes[index] = 0
            continue
        try:
            requests[number].grow(count * MB)
        except OverloadedError:
            assert sum(sizes) + count > 100
        else:
            sizes[number] += count
        assert budget.held_bytes == sum(sizes) * MB
        assert sum(sizes) <= 100 + len(sizes) or sum(size > 1 for size in sizes) == 1


def test_a_small_request_is_admitted_though_large_bodies_fill_all_the_room() -> None:
    budget = BodyBudget(100 * MB)
    slow = Reservation(budget)
    slow.grow(100 * MB)
    small = [Reservation(budget) for _ in range(3)]
    for request in small:
        request.grow(SMALL_BYTES // 2)
        request.grow(SMALL_BYTES // 2)
        with pytest.raises(OverloadedError):
            request.grow(1)
    assert budget.held_bytes == 100 * MB + 3 * SMALL_BYTES
