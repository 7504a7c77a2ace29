"""The run table: what is lent, what is counted, and who is dropped, without a clock on the wall."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramserver.errors import Evicted
from paramserver.runsave import load, save
from paramserver.runstate import Phase
from paramserver.runtable import RunTable
from paramserver.spec import RunSpec, TableSpec
from paramserver.types import PeerId
from paramserver.wire.run import Evaluate, Finished, MakeWeights, Parts, Range, Report


def spec(consistency: str = "bsp", **other: Any) -> RunSpec:
    parts = other.pop("parts", 4)
    values: dict[str, Any] = {
        "name": "run",
        "table": TableSpec(size=10, consistency=consistency, parts=parts),
        "examples": 100,
        "test_examples": 30,
        "batch_size": 16,
        "epochs": 2,
        **other,
    }
    return RunSpec(**values)


NUMBERS = itertools.count(1)


def report(who: PeerId, **said: Any) -> Report:
    return Report(
        number=said.pop("number", next(NUMBERS)),
        run="run",
        worker=who.name,
        incarnation=who.incarnation,
        device="numpy",
        data=said.pop("data", ""),
        wants=True,
        **said,
    )


A, B = PeerId("a", 1), PeerId("b", 1)


def started(table: RunTable, *who: PeerId) -> None:
    for one in who:
        table.report(report(one), 0.0)
    assert isinstance(table.work_for(who[0], 0.0), MakeWeights)
    table.report(report(who[0], initialised=True), 0.0)
    assert table.phase is Phase.TRAIN


def test_one_worker_makes_the_weights_and_another_does_when_it_dies() -> None:
    table = RunTable(spec(), 0.0)
    table.report(report(A), 0.0)
    table.report(report(B), 0.0)
    assert table.work_for(A, 0.0) == MakeWeights(0)
    assert table.work_for(B, 0.0) is None
    assert table.work_for(A, 0.0) == MakeWeights(0), "a reply lost is given again"
    table.drop(A, "gone", 0.0)
    assert table.work_for(B, 0.0) == MakeWeights(0)


def test_parts_of_a_clock_are_shared_and_a_lost_workers_are_done_by_others() -> None:
    table = RunTable(spec(), 0.0)
    started(table, A, B)
    first = table.work_for(A, 0.0)
    second = table.work_for(B, 0.0)
    assert first == Parts(clock=0, epoch=0, parts=[(0, 0, 4), (1, 4, 8)])
    assert second == Parts(clock=0, epoch=0, parts=[(2, 8, 12), (3, 12, 16)])
    table.report(report(A, parts=[(0, 0, 4, 1.0, 1), (0, 1, 4, 1.0, 1)]), 0.0)
    assert table.work_for(A, 0.0) is None
    table.report(report(B, parts=[(0, 2, 4, 1.0, 1)]), 0.0)
    table.drop(B, "gone", 0.0)
    assert table.work_for(A, 0.0) == Parts(clock=0, epoch=0, parts=[(3, 12, 16)])
    table.report(report(A, parts=[(0, 3, 4, 1.0, 1)]), 0.0)
    assert table.clock == 1
    assert table.figures.examples == 16
    with pytest.raises(Evicted, match="gone"):
        table.report(report(B), 0.0)


def test_a_lease_is_lent_again_only_when_every_primary_refuses_its_worker() -> None:
    table = RunTable(spec("asp", parts=1), 0.0)
    started(table, A, B)
    mine = table.work_for(A, 0.0)
    assert mine == Range(lease=1, epoch=0, start=0, stop=16, batch_size=16, clock=0)
    table.drop(A, "gone", 0.0)
    assert table.unconfirmed == [A]
    other = table.work_for(B, 0.0)
    assert isinstance(other, Range)
    assert other.start == 16
    table.confirm_dropped(A, 0)
    assert table.figures.repeated_examples == 16
    table.report(report(B, ranges=[(other.lease, 32, 16, 1.0, 1)]), 0.0)
    again = table.work_for(B, 0.0)
    assert isinstance(again, Range)
    assert (again.start, again.stop) == (0, 16)


def test_a_push_that_nobody_saw_is_not_counted_as_repeated() -> None:
    table = RunTable(spec("asp", parts=1), 0.0)
    started(table, A, B)
    table.work_for(A, 0.0)
    table.drop(A, "gone", 0.0)
    table.confirm_dropped(A, -1)
    assert table.figures.repeated_examples == 0


def test_ssp_admits_within_the_bound_and_waits_for_nobody_without_a_lease() -> None:
    table = RunTable(spec("ssp", parts=1, staleness=2), 0.0)
    started(table, A, B)
    fast = table.work_for(A, 0.0)
    slow = table.work_for(B, 0.0)
    assert isinstance(fast, Range)
    assert isinstance(slow, Range)
    assert table.admit(A, 2) == 0
    assert table.admit(A, 3) is None
    table.drop(B, "gone", 0.0)
    assert table.admit(A, 2) == 0
    assert table.admit(A, 3) is None, "its own iterations count too"
    table.report(report(A, ranges=[(fast.lease, 16, 16, 1.0, 1)]), 0.0)
    assert table.admit(A, 3) == 3, "without a lease it waits for nobody"
    assert table.figures.staleness.max == 2


def test_a_silent_worker_is_dropped_before_the_deadline_and_one_cut_off_sooner() -> None:
    table = RunTable(spec(deadline=10.0), 0.0)
    started(table, A, B)
    table.roster.hear(A, 5.0)
    assert table.tick(7.0) == []
    assert table.tick(7.1) == [B]
    table.roster.link_lost(A, 7.1)
    assert table.tick(8.9) == [], "its next heartbeat may be due"
    assert table.tick(9.0) == [A]
    assert table.roster.dropped[A].startswith("its connection ended 1.9 s ago")


def test_a_worker_heard_of_after_its_connection_broke_is_kept() -> None:
    table = RunTable(spec(deadline=60.0), 0.0)
    started(table, A)
    table.roster.link_lost(A, 1.0)
    table.roster.hear(A, 8.0)
    assert table.tick(20.0) == []


def test_a_run_that_nobody_works_on_fails_after_a_while() -> None:
    table = RunTable(spec(lost_after=60.0), 0.0)
    assert table.tick(60.0) == []
    assert not table.finished
    table.tick(60.1)
    assert table.finished
    assert table.exit_code == 75
    assert "start one with `node start`" in str(table.error)


def test_a_poisoned_worker_is_quarantined_and_two_in_short_order_mean_divergence() -> None:
    table = RunTable(spec(), 0.0)
    started(table, A, B, PeerId("c", 1))
    table.report(report(A, poisoned="NaN"), 0.0)
    assert not table.finished
    assert table.roster.dropped[A] == "quarantined: NaN"
    table.report(report(B, poisoned="NaN"), 0.0)
    assert table.finished
    assert "diverged" in str(table.error)
    assert "a: NaN; b: NaN" in str(table.error)


def test_a_worker_with_other_data_is_dropped_and_without_another_the_run_fails() -> None:
    table = RunTable(spec(data_fingerprint="abc", min_workers=2), 0.0)
    with pytest.raises(Evicted, match="other data"):
        table.report(report(A, data="xyz"), 0.0)
    assert not table.finished
    table.report(report(B, unable="no such file: x.csv"), 0.0)
    assert table.finished
    assert table.exit_code == 2
    assert "a: it has other data" in str(table.error)
    assert "b: no such file: x.csv" in str(table.error)


def test_a_report_sent_again_counts_once() -> None:
    table = RunTable(spec("asp", parts=1), 0.0)
    started(table, A)
    work = table.work_for(A, 0.0)
    assert isinstance(work, Range)
    said = report(A, ranges=[(work.lease, 16, 16, 1.0, 1)], pushes=(1, 0, 0), repeated=3)
    table.report(said, 0.0)
    table.report(said, 0.0)
    assert (table.figures.pushes, table.figures.repeated_examples, table.figures.examples) == (
        [1, 0, 0],
        3,
        16,
    )


def test_a_stopped_run_finishes_what_is_under_way() -> None:
    table = RunTable(spec("asp", parts=1), 0.0)
    started(table, A)
    work = table.work_for(A, 0.0)
    assert isinstance(work, Range)
    table.stop("Ctrl-C", 0.0)
    assert not table.finished
    table.report(report(A, ranges=[(work.lease, 16, 16, 1.0, 1)]), 0.0)
    assert table.work_for(A, 0.0) == Finished("stopped", None)


@settings(max_examples=120, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["bsp", "ssp", "asp"]),
    st.sampled_from([0, 7, 2500]),
    st.sampled_from([1, 3]),
)
def test_every_example_is_counted_once_whoever_dies(
    seed: int, consistency: str, validation: int, period: int
) -> None:
    """Workers join, work, repeat their reports and die, all of it resumes; the sums stay exact."""
    chance = random.Random(seed)
    parts = 4 if consistency == "bsp" else 1
    more = {"validation_examples": validation, "period": period}
    table = RunTable(spec(consistency, parts=parts, **more), 0.0)
    alive: list[PeerId] = []
    held: dict[PeerId, Any] = {}
    trained: set[tuple[int, int]] = set()
    lives = 0
    for _ in range(5000):
        if table.finished:
            break
        if not alive or (len(alive) < 4 and chance.random() < 0.1):
            lives += 1
            newcomer = PeerId(f"w{chance.randrange(6)}", lives)
            alive = [one for one in alive if one.name != newcomer.name]
            alive.append(newcomer)
            table.report(report(newcomer), 0.0)
        if table.phase is Phase.TRAIN and chance.random() < 0.05:
            table.want_cut(chance.choice([1, 3]))
        if table.phase is Phase.TRAIN and chance.random() < 0.05:
            state = save(table, 0.0) if consistency != "bsp" else table.cut
            if state is not None:  # all dies, and another life begins from the last cut
                table = RunTable(table.spec, 0.0)
                load(table, json.loads(json.dumps(state)), state["steps"], 0.0)
                alive, held = [], {}
                continue
        if table.to_keep is not None and chance.random() < 0.5:
            table.kept(table.to_keep, 0.0)
        if len(alive) > 1 and chance.random() < 0.03:
            gone = alive.pop(chance.randrange(len(alive)))
            table.drop(gone, "killed", 0.0)
        for who in table.unconfirmed:
            if chance.random() < 0.5:
                table.confirm_dropped(who, chance.choice([-1, 10**6]))
        who = chance.choice(alive)
        work = held.get(who) or table.work_for(who, 0.0)
        held.pop(who, None)
        said: dict[str, Any] = {}
        if isinstance(work, MakeWeights):
            said["initialised"] = True
        elif isinstance(work, Parts):
            some = chance.sample(work.parts, chance.randint(1, len(work.parts)))
            said["parts"] = [(work.clock, part, b - a, 1.0, 1) for part, a, b in some]
        elif isinstance(work, Range):
            stop = min(work.start + work.batch_size, work.stop)
            trained.update((work.epoch, position) for position in range(work.start, stop))
            said["ranges"] = [(work.lease, stop, stop - work.start, 1.0, 1)]
        elif isinstance(work, Evaluate):
            said["evaluated"] = [(work.lease, work.stop - work.start, 1.0, 1)]
        told = report(who, **said)
        for _ in range(chance.choice([1, 1, 2])):
            table.report(told, 0.0)
    assert table.finished, f"seed {seed}: {table!r}"
    assert table.figures.examples == 200
    if validation:
        assert table.judge.judged == 2
        assert table.judge.last is not None
        assert table.judge.last["accuracy"] == -(-validation // 1000) / validation
    if consistency != "bsp":
        assert trained == {(epoch, position) for epoch in (0, 1) for position in range(100)}
    assert table.figures.test.examples == 30
    assert table.figures.epochs_done == 2
    assert table.figures.last_epoch.examples == 100
