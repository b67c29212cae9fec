"""What a replica holds of bodies, and what it refuses to hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.admission import Admission, Held
from serve_app.errors import OverloadedError


def test_requests_are_refused_when_their_bytes_have_no_room_beside_the_others() -> None:
    admission = Admission(100)
    first, second = Held(admission), Held(admission)
    first.grow(60)
    second.grow(40)
    with pytest.raises(OverloadedError):
        second.grow(1)
    second.give_back()
    first.grow(40)
    assert admission.held_bytes == 100


def test_one_body_alone_is_admitted_whatever_its_size() -> None:
    admission = Admission(100)
    alone, other = Held(admission), Held(admission)
    alone.grow(99)
    alone.grow(99)
    with pytest.raises(OverloadedError):
        other.grow(1)
    alone.give_back()
    other.grow(1)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 50)), max_size=60))
def test_what_is_given_back_is_what_was_taken(steps: list[tuple[int, int]]) -> None:
    admission = Admission(100)
    requests = [Held(admission) for _ in range(4)]
    sizes = [0] * 4
    for number, count in steps:
        if number == 4:
            for index, request in enumerate(requests):
                request.give_back()
                request.give_back()
                sizes[index] = 0
            continue
        try:
            requests[number].grow(count)
        except OverloadedError:
            assert sum(sizes) + count > 100
        else:
            sizes[number] += count
        assert admission.held_bytes == sum(sizes)
        assert sum(sizes) <= 100 or sum(size > 0 for size in sizes) == 1
