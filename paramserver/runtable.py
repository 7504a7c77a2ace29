"""A run's state: what is lent to whom, what is done, and when it ends. Synchronous, no I/O.

The run table's primary, not the leader, lends work. In bsp the parts of the present clock are
assigned to the active workers, and what a lost worker left undone is assigned to others: the identity
of a push is (clock, part), so a repeat is harmless. In ssp and asp ranges of an epoch's permutation
are leased to one worker's incarnation; a lease is renewed by progress, taken back only by evicting
the incarnation, and lent again only when every primary refuses that incarnation.

Times are seconds of a monotonic clock given by the caller as ``now``.
"""

from __future__ import annotations

import math
from typing import Any

from paramserver.clockparts import ClockParts
from paramserver.clocks import admitted
from paramserver.errors import BadMessage, Evicted, NotReady, Refused
from paramserver.evaluation import Evaluation, Judge, Split
from paramserver.lending import Lending
from paramserver.roster import Roster
from paramserver.runfigures import Figures
from paramserver.runsave import save
from paramserver.runstate import Checkpoints, Lease, Phase, Tally, Worker
from paramserver.spec import RunSpec
from paramserver.types import PeerId, Span
from paramserver.wire.run import Evaluate, Finished, MakeWeights, Parts, Range, Report

Work = MakeWeights | Parts | Range | Evaluate | Finished


class RunTable:
    """The state machine of one run."""

    def __init__(self, spec: RunSpec, now: float) -> None:
        self.spec = spec
        self.phase = Phase.INITIALISE
        self.status = "running"
        self.error: str | None = None
        self.exit_code = 0
        self.serial = 0
        self.roster = Roster(spec, now)
        self.figures = Figures(now)
        self.kinds: set[str] = set()
        """Kinds of the devices that have worked on the run, in all of its lives."""
        self.batch_size = spec.batch_size
        self.wanted_cut: int | None = None
        self.cut: dict[str, Any] | None = None
        self.checkpoints = Checkpoints()
        self._stopping: str | None = None
        self._leases = 0
        self._withheld: dict[PeerId, tuple[Lease, int]] = {}
        # bsp
        self.clock = 0
        self.epoch = 0
        self.position = 0
        self.epoch_tally = Tally()
        self._parts: ClockParts | None = None
        # ssp and asp
        self.lending = Lending(spec.epochs, spec.examples)
        # evaluation
        self.evaluation: Evaluation | None = None
        self.judge = Judge(spec.early_stopping)
        self.to_keep: int | None = None
        self._keeping_since = now
        self._passes = 0
        self._pass_began = now
        self.ending: str | None = None

    def __repr__(self) -> str:
        return (
            f"<RunTable {self.spec.name}: {self.phase.value}, {self.status}, clock {self.clock}, "
            f"{self.figures.examples} examples, {len(self.roster.workers)} workers>"
        )

    @property
    def finished(self) -> bool:
        """Whether the run has ended."""
        return self.phase is Phase.FINISHED

    @property
    def stopped_because(self) -> str | None:
        """Why the run ends before its epochs are over, None where it does not."""
        return self._stopping if self._stopping is not None else self.ending

    @property
    def stride(self) -> int:
        """How many positions of an epoch one clock (bsp) or one push (else) covers."""
        return self.batch_size * self.spec.period

    # What workers say

    def report(self, report: Report, now: float) -> None:
        """Take in what a worker did; a worker not known yet joins.

        Raises:
            Evicted: this incarnation was dropped, or trains on other data than the run's.
        """
        who = PeerId(report.worker, report.incarnation)
        self.roster.refuse_dropped(who)
        worker = self.roster.workers.get(who)
        if worker is None:
            worker = self._join(who, report.device, report.kind, now)
            if self.spec.data_fingerprint not in ("", report.data) and report.unable is None:
                self._unable(
                    worker,
                    f"it has other data than the run's (fingerprint {report.data}, not "
                    f"{self.spec.data_fingerprint}): give every worker the same data",
                    now,
                )
        self.roster.hear(who, now)
        if report.number <= worker.reports:
            return
        worker.reports = report.number
        if report.unable is not None:
            self._unable(worker, report.unable, now)
            return
        self.figures.count_told(report.pushes, report.versions, report.repeated)
        if report.initialised and self.phase is Phase.INITIALISE:
            self._begin_training(now)
        for clock, part, examples, loss, correct in report.parts:
            self._part_done(worker, clock, part, examples, loss, correct, now)
        for lease, reached, examples, loss, correct in report.ranges:
            self._range_done(worker, lease, reached, examples, loss, correct, now)
        for lease, examples, loss, correct in report.evaluated:
            self._range_evaluated(worker, lease, examples, loss, correct, now)
        if report.poisoned is not None:
            self._poisoned(worker, report.poisoned, now)

    def _join(self, who: PeerId, device: str, kind: str, now: float) -> Worker:
        for other in self.roster.others_of(who):
            self.drop(other, f"replaced by the later incarnation {who}", now)
        self.serial += 1
        if kind:
            self.kinds.add(kind)
        return self.roster.add(who, device, kind, now)

    # Lending

    def work_for(self, who: PeerId, now: float) -> Work | None:
        """Return what a worker that has nothing to do should do; None: nothing now, ask again."""
        self.roster.refuse_dropped(who)
        worker = self.roster.workers.get(who)
        if worker is None:
            raise Evicted(f"{who} is not known to run {self.spec.name}: report first")
        if self.phase is Phase.INITIALISE:
            if self._stopping is not None:
                self._finish("stopped", now)
                return Finished(self.status, self.error)
            if self.spec.resumed:
                return None  # the driver brings weights and state
            makers = [other for other in self.roster.workers.values() if other.makes_weights]
            if makers and makers[0] is not worker:
                return None
            worker.makes_weights = True
            return MakeWeights(self.spec.seed)
        if self.phase is Phase.TRAIN:
            if self.spec.table.consistency == "bsp":
                return self._parts_for(worker)
            return self._range_for(worker)
        if self.evaluation is not None:
            return self._examples_for(worker, self.evaluation)
        return Finished(self.status, self.error)

    def admit(self, who: PeerId, clock: int) -> int | None:
        """Return the least active clock where a worker may pull for ``clock``; None: not yet."""
        self.roster.refuse_dropped(who)
        active = self.roster.clocks()
        if not admitted(clock, self.spec.staleness, active):
            return None
        least = min(active, default=clock)
        self.figures.staleness.add(max(clock - least, 0))
        return least

    # Training in bsp

    def _begin_training(self, now: float) -> None:
        self.phase = Phase.TRAIN
        self.figures.start(now)
        self.serial += 1
        if self.spec.table.consistency == "bsp":
            self._open_clock()

    def _open_clock(self) -> None:
        stop = min(self.position + self.stride, self.spec.examples)
        self._parts = ClockParts(Span(self.position, stop), self.spec.table.parts)
        self._parts.assign(self.roster.workers)

    def _parts_for(self, worker: Worker) -> Parts | None:
        assert self._parts is not None
        self._parts.assign(self.roster.workers)
        mine = self._parts.of(worker.id)
        return Parts(self.clock, self.epoch, mine) if mine else None

    def _part_done(
        self,
        worker: Worker,
        clock: int,
        part: int,
        examples: int,
        loss: float,
        correct: int,
        now: float,
    ) -> None:
        if self.phase is not Phase.TRAIN or clock != self.clock:
            return
        assert self._parts is not None
        if not self._parts.note(part, Tally(examples, loss, correct)):
            return
        self.figures.pushes[0] += 1  # the shards' answers may come after the run's end
        worker.examples += examples
        worker.clock = clock + 1
        if self._parts.closed:
            self._close_clock(self._parts, now)

    def _close_clock(self, parts: ClockParts, now: float) -> None:
        for one in parts.results():
            self.epoch_tally.add(one.examples, one.loss, one.correct)
            self.figures.count_recent(one.examples, one.loss, one.correct)
        self.figures.examples += len(parts.span)
        self._count_step(now)
        self.clock += 1
        self.serial += 1
        self.figures.staleness.add(0)
        self.position = parts.span.stop
        before = self.figures.epochs_done
        if self.position >= self.spec.examples:
            self.figures.count_epoch(self.epoch_tally, self.rate, now)
            self.epoch_tally = Tally()
            self.position = 0
            self.epoch += 1
        if self.clock == self.wanted_cut:
            self.cut, self.wanted_cut = save(self, now), None
        if self.figures.epochs_done > before and self._validates:
            self._validate(now)
        else:
            self._train_on(now)

    # Training in ssp and asp

    def _range_for(self, worker: Worker) -> Range | None:
        lease = worker.lease
        if lease is None:
            lease = self._lend()
            if lease is None:
                return None
            worker.lease = lease
            others = self.roster.clocks(but=worker)
            worker.clock = max(worker.clock, min(others, default=worker.clock))
        return Range(
            lease.number,
            lease.epoch,
            lease.done,
            lease.span.stop,
            self.stride,
            worker.clock,
        )

    def _lend(self) -> Lease | None:
        if self.stopped_because is not None:
            return None
        # Validated are the weights after an epoch, with nothing of the next one.
        ahead_of = self.figures.epochs_done if self.spec.validation_examples else None
        found = self.lending.lend(self.stride, len(self.roster.workers), ahead_of=ahead_of)
        return self._lease(*found) if found is not None else None

    def _lease(self, epoch: int, span: Span, evaluate: bool = False) -> Lease:
        self._leases += 1
        return Lease(self._leases, epoch, span, span.start, evaluate)

    def _range_done(
        self,
        worker: Worker,
        number: int,
        reached: int,
        examples: int,
        loss: float,
        correct: int,
        now: float,
    ) -> None:
        lease = worker.lease
        if lease is None or lease.number != number or reached <= lease.done:
            return  # a report sent again
        if reached > lease.span.stop or reached - lease.done != examples:
            raise BadMessage(f"progress to {reached} does not fit the lease {lease}")
        lease.done = reached
        worker.pushes += 1
        worker.clock += 1
        worker.examples += examples
        self.figures.examples += examples
        self._count_step(now)
        self.serial += 1
        self.figures.count_recent(examples, loss, correct)
        if self.spec.table.consistency == "asp":
            self.figures.staleness.add(worker.clock - min(self.roster.clocks()))
        before = self.figures.epochs_done
        whole = self.lending.note(lease.epoch, Tally(examples, loss, correct))
        if whole is not None:
            self.figures.count_epoch(whole, self.rate, now)
            self.epoch = max(self.epoch, lease.epoch + 1)
        if lease.done >= lease.span.stop or self.stopped_because is not None:
            worker.lease = None
            self.lending.give_back(lease.epoch, Span(lease.done, lease.span.stop))
        if self.figures.epochs_done > before and self._validates:
            self._validate(now)
        else:
            self._end_if_all_is_done(now)

    def _end_if_all_is_done(self, now: float) -> None:
        if self.phase is not Phase.TRAIN or self.spec.table.consistency == "bsp":
            return
        stopped = self.stopped_because is not None and not self.roster.leases
        if self.figures.epochs_done >= self.spec.epochs or stopped:
            self._end_training(now)

    # Another life

    def lent(self) -> list[tuple[int, Span]]:
        """Return what is lent in ssp and asp, by epoch, and is not known to be done."""
        leases = [one.lease for one in self.roster.workers.values() if one.lease is not None]
        leases += [lease for lease, _ in self._withheld.values()]
        return [(one.epoch, Span(one.done, one.span.stop)) for one in leases if not one.evaluate]

    def want_cut(self, ahead: int) -> int:
        """Keep the state of a bsp run as it will be ``ahead`` clocks from now; return that clock."""
        self.cut = None
        self.wanted_cut = self.clock + ahead
        return self.wanted_cut

    def ask_checkpoint(self) -> int:
        """Note that somebody wants a checkpoint; return the number it will have at least."""
        self.serial += 1
        return self.checkpoints.ask()

    def note_checkpoint(self, number: int, folder: str | None, error: str | None) -> None:
        """Note a checkpoint that was made, or why it was not."""
        self.checkpoints.note(number, folder, error)
        self.serial += 1

    def set_batch_size(self, size: int) -> None:
        """Change the minibatch from the next clock (bsp) or lease on.

        Raises:
            Refused: it is no minibatch of this run.
        """
        if self.phase is Phase.INITIALISE or self.finished:
            raise NotReady(f"run {self.spec.name} does not train now")
        least = self.spec.table.parts
        if not least <= size <= self.spec.examples:
            raise Refused(
                f"batch size {size}: must be {least} (train.parts) to {self.spec.examples} (the "
                "training examples)"
            )
        self.batch_size = size
        self.serial += 1

    def go_on(self, seconds: float, now: float) -> None:
        """Train from where a state that was taken over left off, after ``seconds`` of training."""
        self.phase = Phase.TRAIN
        self.figures.start(now, spent=seconds)
        self.serial += 1
        self._watch_time(now)
        if self._validates and self.figures.epochs_done > self.judge.judged:
            self._validate(now)
        else:
            self._train_on(now)

    def _train_on(self, now: float) -> None:
        """Go on with the next clock, or with lending; or end where all is done."""
        self.phase = Phase.TRAIN
        if self.figures.epochs_done >= self.spec.epochs or self.stopped_because is not None:
            self._end_training(now)
        elif self.spec.table.consistency == "bsp":
            self._open_clock()

    # Evaluation and the end

    @property
    def _validates(self) -> bool:
        return bool(self.spec.validation_examples) and self._stopping is None

    def _evaluate(self, split: Split, now: float) -> None:
        """Begin a pass over a split."""
        validates = split == "validation"
        self.phase = Phase.VALIDATE if validates else Phase.EVALUATE
        examples = self.spec.validation_examples if validates else self.spec.test_examples
        self._passes += 1
        self._pass_began = now
        self.evaluation = Evaluation(self._passes, split, examples)
        self.serial += 1

    def _validate(self, now: float) -> None:
        self._evaluate("validation", now)

    def _judge(self, found: Tally, now: float) -> None:
        """Take what a validation found; the best weights are kept by the driver before going on."""
        assert self.evaluation is not None
        if not math.isfinite(found.loss):
            self.fail(
                f"training diverged: the validation loss after epoch {self.figures.epochs_done} is "
                f"{found.loss}: lower train.rate",
                1,
                now,
            )
            return
        why = self.judge.judge(self.figures.epochs_done, self.figures.steps, found)
        if why is not None and self.figures.epochs_done < self.spec.epochs:
            self.ending = why
        self.to_keep = self.evaluation.number if self.judge.is_best else None
        self._keeping_since = now
        if self.to_keep is None:
            self._leave_validation(now)

    def kept(self, number: int, now: float) -> None:
        """Go on: the driver has kept the weights that pass ``number`` found best."""
        if self.phase is Phase.VALIDATE and self.to_keep == number:
            self._leave_validation(now)

    def _leave_validation(self, now: float) -> None:
        """Train on; the time that validation took is not training's."""
        self.to_keep = None
        self.evaluation = None
        self.figures.leave_out(self._pass_began, now)
        self.serial += 1
        self._train_on(now)

    def _end_training(self, now: float) -> None:
        self.figures.ended = now
        self.serial += 1
        if self._stopping is not None:
            self._finish("stopped", now)
        elif self.spec.test_examples:
            self._evaluate("test", now)
        else:
            self._finish("done", now)

    def _examples_for(self, worker: Worker, evaluation: Evaluation) -> Evaluate | None:
        lease = worker.lease
        if lease is None or lease.epoch != evaluation.number:
            span = evaluation.lend()
            if span is None:
                return None
            lease = worker.lease = self._lease(evaluation.number, span, evaluate=True)
        return Evaluate(
            lease.number,
            lease.span.start,
            lease.span.stop,
            self.final_clock,
            evaluation.split,
            evaluation.number,
        )

    @property
    def final_clock(self) -> int | None:
        """The clock whose weights are the newest in bsp; None in ssp and asp, where now is newest."""
        return self.clock if self.spec.table.consistency == "bsp" else None

    def _range_evaluated(
        self, worker: Worker, number: int, examples: int, loss: float, correct: int, now: float
    ) -> None:
        lease = worker.lease
        if lease is None or lease.number != number or not lease.evaluate:
            return
        if examples != len(lease.span):
            raise BadMessage(f"{examples} examples evaluated of {lease}")
        worker.lease = None
        evaluation = self.evaluation
        if evaluation is None or evaluation.number != lease.epoch:
            return
        evaluation.note(lease.span, Tally(examples, loss, correct))
        self.serial += 1
        if not evaluation.done:
            return
        if evaluation.split == "validation":
            self._judge(evaluation.total(), now)
        else:
            self.figures.test = evaluation.total()
            self._finish("stopped" if self._stopping is not None else "done", now)

    def _finish(self, status: str, now: float) -> None:
        if self.figures.started is not None and self.figures.ended is None:
            self.figures.ended = now
        self.phase = Phase.FINISHED
        self.status = status
        self.serial += 1

    def fail(self, error: str, exit_code: int, now: float) -> None:
        """End the run as failed."""
        if not self.finished:
            self.error = error
            self.exit_code = exit_code
            self._finish("failed", now)

    def stop(self, reason: str, now: float) -> None:
        """End the run in good order: nothing more is lent; what is under way is finished."""
        if self.finished or self._stopping is not None:
            return
        self._stopping = reason
        self.serial += 1
        if self.phase is Phase.INITIALISE or not self.roster.workers:
            self._finish("stopped", now)
        self._end_if_all_is_done(now)

    # Workers that leave, die or go wrong

    def leave(self, who: PeerId, now: float) -> None:
        """Let a worker go that has told of all it did; it may come back as another incarnation."""
        self.drop(who, "told to leave", now)

    def drop(self, who: PeerId, reason: str, now: float) -> bool:
        """Evict an incarnation; its work is lent again once `confirm_dropped` was called."""
        worker = self.roster.remove(who, reason, now)
        if worker is None:
            return False
        self.serial += 1
        if worker.lease is not None:
            self._withheld[who] = (worker.lease, worker.pushes)
        if self._parts is not None:
            self._parts.take_from(who)
            self._parts.assign(self.roster.workers)
        if self._stopping is not None and not self.roster.workers:
            self._finish("stopped", now)
        elif self.stopped_because is not None:
            self._end_if_all_is_done(now)
        return True

    def confirm_dropped(self, who: PeerId, highest: int) -> None:
        """Lend a dropped worker's work again: every primary refuses its incarnation now.

        ``highest`` is the highest push sequence that any primary took of it. A push beyond what was
        reported was in flight: its minibatch will be trained again, and is counted as repeated.
        """
        lease, pushes = self._withheld.pop(who, (None, 0))
        if lease is None or lease.done >= lease.span.stop or self.finished:
            return
        left = Span(lease.done, lease.span.stop)
        if not lease.evaluate and highest >= pushes:
            self.figures.repeated_examples += min(self.stride, len(left))
        if not lease.evaluate:
            self.lending.give_back(lease.epoch, left)
        elif self.evaluation is not None and self.evaluation.number == lease.epoch:
            self.evaluation.give_back(lease.span)
        self.serial += 1

    @property
    def unconfirmed(self) -> list[PeerId]:
        """Dropped workers whose work is not lent again yet."""
        return list(self._withheld)

    def tick(self, now: float) -> list[PeerId]:
        """Drop the workers that were silent for too long; return them.

        A run that nobody worked on for ``lost_after`` seconds fails.
        """
        if self.finished:
            return []
        if self.to_keep is not None and now - self._keeping_since > self.spec.deadline:
            self._leave_validation(now)  # the driver is silent: better no best model than no end
        silent: list[PeerId] = []
        for who, why in self.roster.silent(now):
            self.drop(who, why, now)
            silent.append(who)
        if (error := self.roster.abandoned(now)) is not None:
            self.fail(error, 75, now)
        return silent

    def _unable(self, worker: Worker, reason: str, now: float) -> None:
        """Drop a worker that cannot work; the run fails where as many as it needs cannot."""
        self.drop(worker.id, reason, now)
        if (error := self.roster.note_unable(worker.id, reason)) is not None:
            self.fail(error, 2, now)

    def lends_to(self, who: PeerId) -> bool:
        """Say whether a worker has a lease."""
        worker = self.roster.workers.get(who)
        return worker is not None and worker.lease is not None

    def _poisoned(self, worker: Worker, reason: str, now: float) -> None:
        """Drop a worker whose result was not finite; two in short order mean divergence."""
        error = self.roster.note_poisoned(worker.id, reason, self.figures.steps)
        self.drop(worker.id, f"quarantined: {reason}", now)
        if error is not None:
            self.fail(error, 1, now)

    def _count_step(self, now: float) -> None:
        self.figures.count_step(now)
        self._watch_time(now)

    def _watch_time(self, now: float) -> None:
        limit = self.spec.early_stopping.seconds
        if limit is not None and self.ending is None and self.figures.seconds(now) >= limit:
            self.ending = f"early stopping: {limit:g} s of training are over"

    # What people see

    def seconds(self, now: float) -> float:
        """Return the seconds spent in training so far, without the validation under way."""
        return self.figures.seconds(self._pass_began if self.phase is Phase.VALIDATE else now)

    @property
    def rate(self) -> float:
        """The learning rate of the next server update."""
        return self.spec.rule.rate_at(self.figures.steps)
