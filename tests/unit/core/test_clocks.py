"""Bounded staleness and the parts of a clock."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from paramserver.clocks import Histogram, admitted, cut
from paramserver.types import Span


@given(st.integers(0, 1000), st.integers(0, 20), st.lists(st.integers(0, 1000)))
def test_a_worker_is_admitted_within_the_bound_of_every_active_one(
    clock: int, staleness: int, active: list[int]
) -> None:
    assert admitted(clock, staleness, active) == (clock - min(active, default=clock) <= staleness)


@given(st.integers(0, 100), st.integers(0, 300), st.integers(1, 40))
def test_parts_cover_the_span_and_differ_by_one_at_most(
    start: int, length: int, parts: int
) -> None:
    spans = cut(Span(start, start + length), parts)
    assert len(spans) == parts
    assert spans[0].start == start
    assert spans[-1].stop == start + length
    assert all(a.stop == b.start for a, b in pairwise(spans))
    assert max(map(len, spans)) - min(map(len, spans)) <= 1


def test_a_histogram_knows_mean_and_maximum() -> None:
    seen = Histogram()
    assert (seen.mean, seen.max, seen.total) == (0.0, 0, 0)
    seen.add(4)
    for _ in range(3):
        seen.add(0)
    assert (seen.mean, seen.max, seen.total) == (1.0, 4, 4)
    assert seen.dump() == {"0": 3, "4": 1}
    seen.add(100)
    assert seen.dump() == {"0": 3, "4": 1, "64": 1}
    assert (seen.mean, seen.max) == (20.8, 100)
    assert repr(seen) == "<Histogram of 5: mean 20.80, max 100>"
