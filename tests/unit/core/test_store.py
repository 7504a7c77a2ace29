"""A shard's slices: versions that never change, parts in order, repeats that do nothing."""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.engine import open_rules
from paramserver.applier import Applier
from paramserver.errors import BadMessage, Evicted, Moved, NonFinite, Refused, UnknownTable
from paramserver.ledger import Verdict
from paramserver.slices import Accepted, Floats, Shared, Slice, Table, aligned, is_finite
from paramserver.spec import Rule, TableSpec
from paramserver.store import Store
from paramserver.types import PeerId

SIZE = 2100
ADD = Rule(name="sgd", rate=((0, 1.0),))
"""With rate 1, an update takes the gradient from the weights: sums of integers stay exact."""
A, B = PeerId("a", 1), PeerId("b", 1)


class Bench:
    """A store with one table, and the applier's work done where it is asked for."""

    def __init__(self, parts: int = 1, rule: Rule = ADD, combine: Any = "update") -> None:
        self.store = Store()
        consistency: Any = "bsp" if parts > 1 or combine == "mean" else "asp"
        spec = TableSpec(
            size=SIZE, rule=rule, consistency=consistency, parts=parts, combine=combine
        )
        self.table: Table = self.store.adopt("t", spec, 1, [(0, 7), (1, 7), (2, 7)])
        self.slices: list[Slice] = [self.store.find(self.table, index, 7) for index in range(3)]
        start = 0
        for held in self.slices:
            assert self.store.initialise(held, np.zeros(held.size, np.float32))
            start += held.size
        assert start == SIZE
        self.work = Applier(self.store, lambda: open_rules("numpy"))
        self.work._engine = open_rules("numpy")
        self.freed: list[int] = []

    def memory(self, number: int = 0) -> Shared:
        return Shared(lambda: self.freed.append(number))

    def push(self, worker: PeerId, sequence: int, value: float, settled: int = 0) -> Accepted:
        memory = self.memory(sequence)
        return self.store.accept(
            self.table,
            [(held, 0) for held in self.slices],
            np.full(SIZE, value, np.float32),
            memory,
            worker=worker,
            sequence=sequence,
            settled=settled,
            scale=1.0,
        )

    def stage(self, clock: int, part: int, gradient: Floats, examples: int = 1) -> Accepted:
        return self.store.stage(
            self.table,
            [(held, 0) for held in self.slices],
            gradient,
            self.memory(part),
            worker=A,
            clock=clock,
            part=part,
            examples=examples,
        )

    def finish(self, accepted: Accepted) -> None:
        self.work._work(accepted.jobs)
        for job in accepted.jobs:
            self.store.finish(job)

    def weights(self) -> Floats:
        return np.concatenate([held.current.array for held in self.slices if held.current])


def test_memory_for_slices_is_aligned_to_128_bytes() -> None:
    assert all(aligned(count).ctypes.data % 128 == 0 for count in range(1, 40))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_is_found(bad: float) -> None:
    values = np.full(5000, 3e38, np.float32)
    assert is_finite(values), "a sum that overflows is no proof"
    values[4321] = bad
    assert not is_finite(values)


def test_a_push_is_applied_once_however_often_it_is_sent() -> None:
    bench = Bench()
    first = bench.push(A, 0, 1.0)
    again = bench.push(A, 0, 1.0)
    assert (len(first.jobs), again.joined, again.jobs) == (3, 3, [])
    bench.finish(first)
    assert (bench.weights() == -1).all()
    late = bench.push(A, 0, 1.0)
    assert (late.repeats, late.jobs) == (3, [])
    assert bench.table.applied == 1
    assert bench.table.repeated == 2
    assert bench.freed == [0]


def test_staleness_counts_the_updates_since_the_version_pulled() -> None:
    bench = Bench()
    assert bench.push(A, 0, 1.0).staleness == [0, 0, 0]
    assert bench.push(B, 0, 1.0).staleness == [1, 1, 1]
    assert bench.table.staleness.max == 1


def test_a_version_being_sent_is_not_written_to_and_then_used_again() -> None:
    bench = Bench()
    pinned = bench.store.pin(bench.slices)
    assert pinned is not None
    before = [version.array for version in pinned]
    for sequence in range(3):
        bench.finish(bench.push(A, sequence, 1.0, sequence))
    assert all((array == 0).all() for array in before)
    assert (bench.weights() == -3).all()
    bench.store.unpin(bench.table, pinned)
    taken = bench.table.spares.take(before[0].size)
    assert any(taken is array for array in before)


def test_parts_are_summed_in_part_order_and_weighted_by_examples() -> None:
    bench = Bench(parts=3)
    pieces = [np.full(SIZE, value, np.float32) for value in (1e8, -1e8, 1.0)]
    counts = (2, 1, 1)
    for part in (2, 0):
        accepted = bench.stage(0, part, pieces[part], counts[part])
        bench.finish(accepted)
        assert bench.slices[0].clock == 0
        assert (bench.weights() == 0).all()
    bench.finish(bench.stage(0, 1, pieces[1], counts[1]))
    # (1e8 − 1e8) + 1 is 1; in another order float32 loses the 1.
    assert (bench.weights() == -0.25).all()
    assert [held.clock for held in bench.slices] == [1, 1, 1]
    assert sorted(bench.freed) == [0, 1], "part 2 was copied: it holds no memory while it waits"


def nearest(exact: Fraction) -> np.float32:
    """Round to float32 once: to the nearest, and to the even one of two that are as near."""
    guess = np.float32(float(exact))
    around = [np.nextafter(guess, np.float32(side)) for side in (-np.inf, np.inf)]
    return min(
        (guess, *around),
        key=lambda one: (abs(Fraction(float(one)) - exact), int(one.view(np.uint32)) & 1),
    )


@pytest.mark.parametrize(
    "counts", [[10] * 10, [12, 0, 7, 1, 0, 30, 11, 13, 17, 9], [0, 0, 99, 1], [100]]
)
def test_the_mean_of_weights_is_exact_to_float32_s_last_bit(
    counts: list[int], rng: np.random.Generator
) -> None:
    # As iterative reduce does it: 100 examples dealt to 10 workers, and their weights averaged.
    bench = Bench(parts=len(counts), combine="mean")
    spread = 10.0 ** rng.integers(-3, 3, (len(counts), SIZE))
    pushed = (rng.standard_normal((len(counts), SIZE)) * spread).astype(np.float32)
    for part in rng.permutation(len(counts)):
        bench.finish(bench.stage(0, int(part), pushed[part], counts[part]))
    exact = [
        sum(
            (Fraction(n) * Fraction(float(w)) for n, w in zip(counts, column, strict=True)),
            Fraction(0),
        )
        / 100
        for column in pushed.T
    ]
    np.testing.assert_array_equal(bench.weights(), [nearest(one) for one in exact])
    assert [(held.clock, held.accepted) for held in bench.slices] == [(1, 1)] * 3
    for part in range(len(counts)):  # a second clock begins its sum anew
        bench.finish(bench.stage(1, part, np.full(SIZE, 3, np.float32), counts[part]))
    assert (bench.weights() == 3).all()


def test_a_mean_is_captured_as_its_clock_begins() -> None:
    bench = Bench(parts=2, combine="mean")
    captured = [bench.store.capture(bench.table, held, 1)[0] for held in bench.slices]
    for clock in (0, 1):
        for part in (1, 0):
            bench.finish(bench.stage(clock, part, np.full(SIZE, clock + 2, np.float32), 50))
    assert all(copy.done and (copy.arrays[0] == 2).all() for copy in captured)
    assert (bench.weights() == 3).all()


def test_a_mean_of_large_weights_does_not_overflow() -> None:
    bench = Bench(parts=2, combine="mean")
    largest = np.full(SIZE, np.finfo(np.float32).max, np.float32)
    for part in (0, 1):
        bench.finish(bench.stage(0, part, largest, 50))
    np.testing.assert_array_equal(bench.weights(), largest)


def test_a_part_that_claims_impossible_examples_is_refused() -> None:
    bench = Bench(parts=2)
    for examples in (-1, 1 << 60):
        with pytest.raises(BadMessage, match=f"claims {examples} examples"):
            bench.stage(0, 0, np.ones(SIZE, np.float32), examples)


def test_the_first_copy_of_a_part_counts_and_one_of_a_closed_clock_does_nothing() -> None:
    bench = Bench(parts=2)
    bench.finish(bench.stage(0, 0, np.ones(SIZE, np.float32)))
    again = bench.stage(0, 0, np.full(SIZE, 9, np.float32))
    assert (again.repeats, again.jobs) == (3, [])
    bench.finish(bench.stage(0, 1, np.ones(SIZE, np.float32)))
    late = bench.stage(0, 1, np.full(SIZE, 9, np.float32))
    assert (late.repeats, late.jobs) == (3, [])
    assert (bench.weights() == -1).all()
    with pytest.raises(Refused, match="clock 3"):
        bench.stage(3, 0, np.ones(SIZE, np.float32))
    with pytest.raises(BadMessage, match="part 2 of a clock that has 2"):
        bench.stage(1, 2, np.ones(SIZE, np.float32))


def test_slices_elsewhere_or_under_another_epoch_are_refused_with_what_is_known() -> None:
    bench = Bench()
    with pytest.raises(Moved, match="here under chain epoch 7, asked for under 6") as caught:
        bench.store.find(bench.table, 1, 6)
    assert caught.value.detail == {"table": "t", "index": 1, "epoch": 7}
    with pytest.raises(Moved, match="not here"):
        bench.store.find(bench.table, 9, 7)
    with pytest.raises(UnknownTable, match="'other'"):
        bench.store.table("other")


def test_an_evicted_worker_is_refused_also_by_slices_that_come_later() -> None:
    bench = Bench()
    bench.finish(bench.push(A, 0, 1.0))
    assert bench.store.evict(bench.table, A) == 0
    with pytest.raises(Evicted):
        bench.push(A, 1, 1.0)
    spec = bench.table.spec
    bench.store.adopt("t", spec, 1, [(0, 7)])
    bench.store.adopt("t", spec, 1, [(0, 7), (1, 9)])
    with pytest.raises(Evicted):
        bench.store.find(bench.table, 1, 9).ledger.judge(A, 1, 0)
    bench.store.adopt("next", TableSpec(size=10), 1, [(0, 1)])
    later = bench.store.find(bench.store.table("next"), 0, 1)
    assert later.ledger.judge(A, 0, 0) is Verdict.NEW, "another run's table knows nothing of it"


def test_a_push_that_one_slice_refuses_changes_no_other() -> None:
    bench = Bench()
    bench.slices[2].ledger.evict(A)
    with pytest.raises(Evicted):
        bench.push(A, 0, 1.0)
    assert all(held.ledger.judge(A, 0, 0) is Verdict.NEW for held in bench.slices[:2])
    assert [held.accepted for held in bench.slices] == [0, 0, 0]


def test_parts_that_wait_hold_no_memory_of_their_requests() -> None:
    bench = Bench(parts=3)
    for part in (2, 1):
        accepted = bench.stage(0, part, np.ones(SIZE, np.float32))
        assert accepted.jobs == []
    bench.finish(bench.stage(0, 0, np.ones(SIZE, np.float32)))
    assert bench.freed == [0]
    assert (bench.weights() == -1).all()


def test_a_clock_that_closed_on_some_slices_only_can_be_computed_again() -> None:
    """A worker died with its part at one slice: who repeats it needs that slice as it was."""
    bench = Bench(parts=2)
    one = np.ones(SIZE, np.float32)

    def pinned(clock: int) -> list[tuple[int, float]]:
        versions = bench.store.pin(bench.slices, clock)
        assert versions is not None
        seen = [(version.clock, float(version.array[0])) for version in versions]
        bench.store.unpin(bench.table, versions)
        return seen

    for clock in range(5):
        before = -float(clock)
        bench.finish(bench.stage(clock, 0, one))
        first = bench.store.stage(
            bench.table,
            [(bench.slices[0], 0)],
            one[: bench.slices[0].size],
            bench.memory(),
            worker=A,
            clock=clock,
            part=1,
            examples=1,
        )
        bench.finish(first)
        assert [held.clock for held in bench.slices] == [clock + 1, clock, clock]
        assert pinned(clock) == [(clock, before)] * 3
        again = bench.stage(clock, 1, one)
        assert again.repeats == 1
        bench.finish(again)
        assert pinned(clock + 1) == [(clock + 1, before - 1)] * 3
    kept = sum(len(arrays) for arrays in bench.table.spares._free.values())
    assert kept == 0, "two versions of a slice and no more"


def test_first_weights_are_set_once_and_must_be_finite() -> None:
    bench = Bench()
    held = bench.slices[0]
    assert not bench.store.initialise(held, np.ones(held.size, np.float32))
    bench.store.adopt("other", TableSpec(size=10), 1, [(0, 1)])
    fresh = bench.store.find(bench.store.table("other"), 0, 1)
    assert bench.store.pin([fresh]) is None
    with pytest.raises(NonFinite):
        bench.store.initialise(fresh, np.full(10, np.nan, np.float32))


def test_another_attempt_of_a_table_begins_empty() -> None:
    bench = Bench()
    again = bench.store.adopt("t", bench.table.spec, 2, [(0, 8)])
    assert again is not bench.table
    assert again.slices[0].current is None


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_integer_pushes_sum_exactly_under_repeats_and_any_batching(seed: int) -> None:
    """Pushes of several workers, repeated at random, applied in batches of random size."""
    chance = random.Random(seed)
    bench = Bench()
    waiting: list[Accepted] = []
    total = 0
    sent: dict[PeerId, int] = {A: 0, B: 0}
    for _ in range(60):
        worker = chance.choice([A, B])
        if sent[worker] and chance.random() < 0.3:
            repeat = bench.push(worker, sent[worker] - 1, 1000.0)
            assert repeat.jobs == []
        else:
            value = chance.randrange(10)
            total += value
            waiting.append(bench.push(worker, sent[worker], float(value)))
            sent[worker] += 1
        if chance.random() < 0.4:
            jobs = [job for accepted in waiting for job in accepted.jobs]
            waiting.clear()
            bench.finish(Accepted(jobs=jobs))
    bench.finish(Accepted(jobs=[job for accepted in waiting for job in accepted.jobs]))
    assert (bench.weights() == -total).all()
