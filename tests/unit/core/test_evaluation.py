"""Evaluation in ranges, and the judgement when to stop."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

from paramserver.evaluation import Evaluation, Judge
from paramserver.runsave import load, save
from paramserver.runstate import Phase, Tally
from paramserver.runtable import RunTable
from paramserver.spec import EarlyStopping, RunSpec, TableSpec
from paramserver.types import PeerId
from paramserver.wire.run import Evaluate, MakeWeights, Parts, Report

ME = PeerId("me", 1)


def test_the_sum_is_the_same_bits_in_whatever_order_ranges_come() -> None:
    totals = set()
    for seed in range(20):
        chance = random.Random(seed)
        evaluation = Evaluation(1, "test", 7500)
        lent = [span for span in iter(evaluation.lend, None) if span is not None]
        assert [len(span) for span in lent] == [1000] * 7 + [500]
        again = lent.pop()
        evaluation.give_back(again)
        assert evaluation.lend() == again
        lent.append(again)
        chance.shuffle(lent)
        for span in lent:
            assert not evaluation.done
            evaluation.note(span, Tally(len(span), 0.1 * span.start + 1e-9, 1))
        assert evaluation.done
        totals.add((evaluation.total().loss, evaluation.total().correct))
    assert len(totals) == 1


def judged(rule: EarlyStopping, losses: list[float]) -> tuple[Judge, str | None]:
    judge, why = Judge(rule), None
    for epoch, loss in enumerate(losses, 1):
        why = judge.judge(epoch, epoch * 10, Tally(10, loss * 10, 5))
        judge_again = Judge(rule)
        judge_again.load(json.loads(json.dumps(judge.save())))
        judge = judge_again
        if why is not None:
            break
    return judge, why


def test_patience_counts_epochs_without_an_improvement_beyond_the_threshold() -> None:
    rule = EarlyStopping(patience=2, threshold=0.1)
    judge, why = judged(rule, [1.0, 0.95, 0.8, 0.75, 0.72, 0.1])
    assert judge.best is not None
    assert (judge.best["epoch"], judge.judged) == (3, 5)
    assert why is not None
    assert "for 2 epochs, since epoch 3" in why
    assert judged(EarlyStopping(), [1.0, 2.0, 3.0])[1] is None
    better = judged(EarlyStopping(metric="accuracy", patience=1), [1.0, 0.5])
    assert better[1] is not None, "the accuracy was the same"


NUMBERS = itertools.count(1)


def tell(table: RunTable, now: float, **said: Any) -> None:
    report = Report(
        run="r",
        worker="me",
        incarnation=1,
        device="",
        data="",
        wants=True,
        number=next(NUMBERS),
        **said,
    )
    table.report(report, now)


def play(table: RunTable, loss: float, now: float) -> None:
    """Do one piece of work of a bsp run with a single part."""
    work = table.work_for(ME, now)
    said: dict[str, Any] = {}
    if isinstance(work, MakeWeights):
        said["initialised"] = True
    elif isinstance(work, Parts):
        said["parts"] = [(work.clock, part, b - a, loss, 0) for part, a, b in work.parts]
    elif isinstance(work, Evaluate):
        size = work.stop - work.start
        said["evaluated"] = [(work.lease, size, loss * size, 0)]
    tell(table, now, **said)


def run_of(**rule: float) -> RunTable:
    spec = RunSpec(
        name="r",
        table=TableSpec(size=4, consistency="bsp"),
        examples=20,
        batch_size=10,
        epochs=50,
        validation_examples=5,
        test_examples=3,
        early_stopping=EarlyStopping.model_validate(rule),
    )
    table = RunTable(spec, 0.0)
    tell(table, 0.0)
    return table


def test_training_stops_when_validation_gets_no_better_and_is_still_tested() -> None:
    table = run_of(patience=3)
    now = 0.0
    while not table.finished:
        now += 1.0
        play(table, max(1.0 - table.figures.epochs_done * 0.2, 0.4), now)
        if table.to_keep is not None:
            assert table.phase is Phase.VALIDATE
            assert table.work_for(ME, now) is None, "nobody trains before the best is kept"
            table.kept(table.to_keep, now)
    assert (table.status, table.figures.epochs_done, table.figures.test.examples) == ("done", 6, 3)
    assert table.judge.best is not None
    assert table.judge.best["epoch"] == 3
    assert "early stopping" in str(table.stopped_because)
    assert table.figures.seconds(now) == 2 * 6  # a second a step, validations aside


def test_training_stops_when_its_time_is_over() -> None:
    table = run_of(seconds=7.0)
    now = 0.0
    while not table.finished:
        now += 1.0
        play(table, 1.0, now)
        if table.to_keep is not None:
            table.kept(table.to_keep, now)
    assert table.status == "done"
    assert table.stopped_because == "early stopping: 7 s of training are over"
    assert 7 <= table.figures.seconds(now) <= 9


def test_a_validation_loss_that_is_not_finite_fails_the_run() -> None:
    table = run_of()
    while table.phase is not Phase.VALIDATE:
        play(table, 1.0, 0.0)
    play(table, float("nan"), 0.0)
    assert table.status == "failed"
    assert "diverged" in str(table.error)


def test_a_driver_that_keeps_nothing_holds_the_run_for_a_deadline_only() -> None:
    table = run_of()
    while table.to_keep is None:
        play(table, 1.0, 0.0)
    table.roster.hear(ME, 9.0)
    table.tick(9.9)
    assert table.phase is Phase.VALIDATE
    table.roster.hear(ME, 10.1)
    table.tick(10.1)
    assert table.phase is Phase.TRAIN


def test_a_run_that_stopped_early_has_stopped_in_its_next_life_too() -> None:
    table = run_of(patience=3)
    while not table.finished:
        play(table, 1.0, 0.0)
        if table.to_keep is not None:
            table.kept(table.to_keep, 0.0)
    state = json.loads(json.dumps(save(table, 0.0)))
    again = RunTable(table.spec, 0.0)
    load(again, state, state["steps"], 0.0)
    assert again.phase is Phase.EVALUATE, "there is nothing to train"
    longer = RunTable(table.spec.model_copy(update={"epochs": 60}), 0.0)
    load(longer, state, state["steps"], 0.0)
    assert longer.phase is Phase.TRAIN, "who asks for more gets more"
    shorter = RunTable(table.spec.model_copy(update={"epochs": 40}), 0.0)
    load(shorter, state, state["steps"], 0.0)
    assert shorter.phase is Phase.EVALUATE, "who asks for less does not"
    patient = table.spec.model_copy(update={"early_stopping": EarlyStopping(patience=9)})
    going_on = RunTable(patient, 0.0)
    load(going_on, state, state["steps"], 0.0)
    assert going_on.phase is Phase.TRAIN, "who has more patience gets more"
    state["seconds"] = 5.0
    timed = table.spec.model_copy(update={"early_stopping": EarlyStopping(seconds=5.0)})
    late = RunTable(timed, 0.0)
    load(late, state, state["steps"], 0.0)
    assert late.phase is Phase.EVALUATE, "not one step more"
    assert late.stopped_because == "early stopping: 5 s of training are over"


def test_best_weights_that_were_not_kept_yet_are_found_again_by_the_next_life() -> None:
    table = run_of(patience=3)
    while table.to_keep is None:
        play(table, 1.0, 0.0)
    again = RunTable(table.spec, 0.0)
    state = json.loads(json.dumps(save(table, 100.0)))
    assert state["seconds"] == 0.0, "a validation's time is not training's"
    load(again, state, table.figures.steps, 0.0)
    assert again.phase is Phase.VALIDATE
    tell(again, 0.0)
    while again.to_keep is None:
        play(again, 1.0, 0.0)
    assert again.judge.save() == table.judge.save()
    again.kept(again.to_keep, 0.0)
    assert again.phase is Phase.TRAIN
