"""A run's state: what is lent to whom, what is done, and when it ends. Synchronous, no I/O.

The run table's primary, not the leader, lends work. In bsp the parts of the present clock are
assigned to the active workers, and what a lost worker left undone is assigned to others: the identity
of a push is (clock, part), so a repeat is harmless. In ssp and asp ranges of an epoch's permutation
are leased to one worker's incarnation; a lease is renewed by progress, taken back only by evicting
the incarnation, and lent again only when every primary refuses that incarnation.

Times are seconds of a monotonic clock given by the caller as ``now``.
"""

from __future__ import annotations

from collections import deque

from paramserver.clocks import Histogram, admitted, cut
from paramserver.errors import BadMessage, Evicted
from paramserver.runstate import Epoch, Lease, Phase, Tally, Worker
from paramserver.spec import RunSpec
from paramserver.types import PeerId, Span
from paramserver.wire.run import Evaluate, Finished, MakeWeights, Parts, Range, Report

Work = MakeWeights | Parts | Range | Evaluate | Finished

EVALUATE_RANGE = 1000
LEASE_MINIBATCHES = 32
RECENT_EXAMPLES = 4096
STRIKE_STEPS = 100
SILENT_SHARE = 0.7
LINK_GRACE = 1.0


class RunTable:
    """The state machine of one run."""

    def __init__(self, spec: RunSpec, now: float) -> None:
        self.spec = spec
        self.phase = Phase.INITIALISE
        self.status = "running"
        self.error: str | None = None
        self.exit_code = 0
        self.serial = 0
        self.workers: dict[PeerId, Worker] = {}
        self.dropped: dict[PeerId, str] = {}
        self.strikes: list[tuple[int, str]] = []
        self.staleness = Histogram()
        self.versions = [0, 0]
        self.pushes = [0, 0, 0]
        self.repeated_examples = 0
        self.steps = 0
        self.examples = 0
        self.epochs_done = 0
        self.last_epoch = Tally()
        self.recent = Tally()
        self.test = Tally()
        self.started: float | None = None
        self.ended: float | None = None
        self.longest_pause = 0.0
        self._last_step = now
        self._alone_since = now
        self._stopping: str | None = None
        self._leases = 0
        self._returned: deque[tuple[int, Span]] = deque()
        self._withheld: dict[PeerId, tuple[Lease, int]] = {}
        # bsp
        self.clock = 0
        self.epoch = 0
        self._position = 0
        self._spans: tuple[Span, ...] = ()
        self._done: dict[int, tuple[int, float, int]] = {}
        self._owner: dict[int, PeerId] = {}
        self._epoch_tally = Tally()
        # ssp and asp
        self._epochs: dict[int, Epoch] = {}
        self._lending = 0
        # evaluation
        self._evaluated = 0
        self._next_test = 0

    def __repr__(self) -> str:
        return (
            f"<RunTable {self.spec.name}: {self.phase.value}, {self.status}, clock {self.clock}, "
            f"{self.examples} examples, {len(self.workers)} workers>"
        )

    @property
    def finished(self) -> bool:
        """Whether the run has ended."""
        return self.phase is Phase.FINISHED

    # What workers say

    def hear(self, worker: PeerId, now: float) -> None:
        """Note that a worker lives.

        Raises:
            Evicted: this incarnation was dropped.
        """
        self._refuse_dropped(worker)
        if worker in self.workers:
            self.workers[worker].heard = now
            self.workers[worker].cut = None

    def report(self, report: Report, now: float) -> None:
        """Take in what a worker did; a worker not known yet joins.

        Raises:
            Evicted: this incarnation was dropped, or trains on other data than the run's.
        """
        who = PeerId(report.worker, report.incarnation)
        self._refuse_dropped(who)
        worker = self.workers.get(who)
        if worker is None:
            worker = self._join(who, report, now)
            if self.spec.data_fingerprint not in ("", report.data) and report.unable is None:
                self._unable(
                    worker,
                    f"it has other data than the run's (fingerprint {report.data}, not "
                    f"{self.spec.data_fingerprint}): give every worker the same data",
                    now,
                )
                self._refuse_dropped(who)
        worker.heard = now
        worker.cut = None
        if report.number <= worker.reports:
            return
        worker.reports = report.number
        if report.unable is not None:
            self._unable(worker, report.unable, now)
            return
        for index in range(3):
            self.pushes[index] += report.pushes[index]
        self.repeated_examples += report.repeated
        for index in range(2):
            self.versions[index] += report.versions[index]
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

    def _join(self, who: PeerId, report: Report, now: float) -> Worker:
        for other in [known for known in self.workers if known.name == who.name]:
            if other.incarnation > who.incarnation:
                raise Evicted(f"{who} was replaced by the later incarnation {other}")
            self.drop(other, f"replaced by the later incarnation {who}", now)
        active = [worker.clock for worker in self.workers.values() if worker.lease is not None]
        worker = Worker(
            who,
            report.device,
            joined=now,
            heard=now,
            clock=min(active, default=self._least_clock()),
        )
        self.workers[who] = worker
        self.serial += 1
        return worker

    def _least_clock(self) -> int:
        return min((worker.clock for worker in self.workers.values()), default=0)

    # Lending

    def work_for(self, who: PeerId, now: float) -> Work | None:
        """Return what a worker that has nothing to do should do; None: nothing now, ask again."""
        self._refuse_dropped(who)
        worker = self.workers.get(who)
        if worker is None:
            raise Evicted(f"{who} is not known to run {self.spec.name}: report first")
        if self.phase is Phase.INITIALISE:
            if self._stopping is not None:
                self._finish("stopped", now)
                return Finished(self.status, self.error)
            makers = [other for other in self.workers.values() if other.makes_weights]
            if makers and makers[0] is not worker:
                return None
            worker.makes_weights = True
            return MakeWeights(self.spec.seed)
        if self.phase is Phase.TRAIN:
            if self.spec.table.consistency == "bsp":
                return self._parts_for(worker)
            return self._range_for(worker)
        if self.phase is Phase.EVALUATE:
            return self._test_for(worker)
        return Finished(self.status, self.error)

    def admit(self, who: PeerId, clock: int) -> int | None:
        """Return the least active clock where a worker may pull for ``clock``; None: not yet."""
        self._refuse_dropped(who)
        active = [worker.clock for worker in self.workers.values() if worker.lease is not None]
        if not admitted(clock, self.spec.staleness, active):
            return None
        least = min(active, default=clock)
        self.staleness.add(max(clock - least, 0))
        return least

    # Training in bsp

    def _begin_training(self, now: float) -> None:
        self.phase = Phase.TRAIN
        self.started = self._last_step = now
        self.serial += 1
        if self.spec.table.consistency == "bsp":
            self._open_clock()

    def _open_clock(self) -> None:
        stop = min(self._position + self.spec.batch_size, self.spec.examples)
        self._spans = cut(Span(self._position, stop), self.spec.table.parts)
        self._done = {}
        self._owner = {}
        self._assign()

    def _assign(self) -> None:
        """Give every part that is nobody's to an active worker, evenly and in order."""
        active = sorted(self.workers)
        if not active:
            return
        load = dict.fromkeys(active, 0)
        for part, who in self._owner.items():
            if part not in self._done:
                load[who] = load.get(who, 0) + 1
        free = [
            part
            for part in range(len(self._spans))
            if part not in self._done and part not in self._owner
        ]
        standing = len(free) == len(self._spans)
        for rank, part in enumerate(free):
            if standing:
                who = (
                    active[rank * len(active) // len(free)]
                    if len(free) >= len(active)
                    else (active[rank])
                )
            else:
                who = min(active, key=lambda one: (load[one], one))
            self._owner[part] = who
            load[who] += 1

    def _parts_for(self, worker: Worker) -> Parts | None:
        if any(part not in self._owner for part in range(len(self._spans))):
            self._assign()
        mine = [
            (part, span.start, span.stop)
            for part, span in enumerate(self._spans)
            if self._owner.get(part) == worker.id and part not in self._done
        ]
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
        if self.phase is not Phase.TRAIN or clock != self.clock or part in self._done:
            return
        if not 0 <= part < len(self._spans) or examples != len(self._spans[part]):
            raise BadMessage(f"part {part} of clock {clock} with {examples} examples is not lent")
        self._done[part] = (examples, loss, correct)
        self.pushes[0] += 1  # the shards' answers may come after the run's end
        worker.examples += examples
        worker.clock = clock + 1
        if len(self._done) == len(self._spans):
            self._close_clock(now)

    def _close_clock(self, now: float) -> None:
        for part in range(len(self._spans)):
            self._epoch_tally.add(*self._done[part])
            self._count_recent(*self._done[part])
        self.examples += sum(len(span) for span in self._spans)
        self._count_step(now)
        self.clock += 1
        self.serial += 1
        self.staleness.add(0)
        self._position = self._spans[-1].stop
        if self._position >= self.spec.examples:
            self.last_epoch, self._epoch_tally = self._epoch_tally, Tally()
            self._position = 0
            self.epoch += 1
            self.epochs_done += 1
        if self.epochs_done >= self.spec.epochs or self._stopping is not None:
            self._end_training(now)
        else:
            self._open_clock()

    # Training in ssp and asp

    def _range_for(self, worker: Worker) -> Range | None:
        lease = worker.lease
        if lease is None:
            lease = self._lend()
            if lease is None:
                return None
            others = [
                other.clock
                for other in self.workers.values()
                if other.lease is not None and other is not worker
            ]
            worker.lease = lease
            worker.clock = max(worker.clock, min(others, default=worker.clock))
        return Range(
            lease.number,
            lease.epoch,
            lease.done,
            lease.span.stop,
            self.spec.batch_size,
            worker.clock,
        )

    def _lend(self) -> Lease | None:
        if self._stopping is not None:
            return None
        if self._returned:
            epoch, span = self._returned.popleft()
            return self._lease(epoch, span)
        if self._lending >= self.spec.epochs:
            return None
        current = self._epochs.setdefault(self._lending, Epoch(self._lending))
        batch = self.spec.batch_size
        share = self.spec.examples // max(8 * len(self.workers) * batch, 1)
        length = batch * min(max(share, 1), LEASE_MINIBATCHES)
        span = Span(current.lent, min(current.lent + length, self.spec.examples))
        current.lent = span.stop
        if span.stop >= self.spec.examples:
            self._lending += 1  # before it can be done, and forgotten: each epoch is lent once
        return self._lease(current.number, span)

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
        self.examples += examples
        self._count_step(now)
        self.serial += 1
        self._count_recent(examples, loss, correct)
        if self.spec.table.consistency == "asp":
            active = [other.clock for other in self.workers.values() if other.lease is not None]
            self.staleness.add(worker.clock - min(active))
        epoch = self._epochs[lease.epoch]
        epoch.tally.add(examples, loss, correct)
        if epoch.tally.examples >= self.spec.examples:
            self.last_epoch = epoch.tally
            self.epochs_done += 1
            self.epoch = max(self.epoch, epoch.number + 1)
            del self._epochs[epoch.number]
        if lease.done >= lease.span.stop or self._stopping is not None:
            worker.lease = None
        self._end_if_all_is_done(now)

    def _end_if_all_is_done(self, now: float) -> None:
        if self.phase is not Phase.TRAIN or self.spec.table.consistency == "bsp":
            return
        stopped = self._stopping is not None and not any(
            worker.lease is not None for worker in self.workers.values()
        )
        if self.epochs_done >= self.spec.epochs or stopped:
            self._end_training(now)

    # Evaluation and the end

    def _end_training(self, now: float) -> None:
        self.ended = now
        self._returned.clear()
        self.serial += 1
        if self._stopping is not None:
            self._finish("stopped", now)
        elif self.spec.test_examples:
            self.phase = Phase.EVALUATE
        else:
            self._finish("done", now)

    def _test_for(self, worker: Worker) -> Evaluate | Finished | None:
        if worker.lease is None:
            if self._returned:
                epoch, span = self._returned.popleft()
                worker.lease = self._lease(epoch, span, evaluate=True)
            elif self._next_test < self.spec.test_examples:
                stop = min(self._next_test + EVALUATE_RANGE, self.spec.test_examples)
                worker.lease = self._lease(self.epoch, Span(self._next_test, stop), evaluate=True)
                self._next_test = stop
            else:
                return None
        span = worker.lease.span
        return Evaluate(worker.lease.number, span.start, span.stop, self.final_clock)

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
        self.test.add(examples, loss, correct)
        self._evaluated += examples
        self.serial += 1
        if self._evaluated >= self.spec.test_examples:
            self._finish("stopped" if self._stopping is not None else "done", now)

    def _finish(self, status: str, now: float) -> None:
        if self.started is not None and self.ended is None:
            self.ended = now
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
        if self.phase is Phase.INITIALISE or not self.workers:
            self._finish("stopped", now)
        self._returned.clear()
        self._end_if_all_is_done(now)

    # Workers that leave, die or go wrong

    def drop(self, who: PeerId, reason: str, now: float) -> bool:
        """Evict an incarnation; its work is lent again once `confirm_dropped` was called."""
        worker = self.workers.pop(who, None)
        if worker is None:
            return False
        self.dropped[who] = reason
        self.serial += 1
        if not self.workers:
            self._alone_since = now
        if worker.lease is not None:
            self._withheld[who] = (worker.lease, worker.pushes)
        for part, owner in list(self._owner.items()):
            if owner == who and part not in self._done:
                del self._owner[part]
        if self.phase is Phase.TRAIN and self.spec.table.consistency == "bsp":
            self._assign()
        if self._stopping is not None:
            if self.workers:
                self._end_if_all_is_done(now)
            else:
                self._finish("stopped", now)
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
            self.repeated_examples += min(self.spec.batch_size, len(left))
        if lease.evaluate == (self.phase is Phase.EVALUATE):
            self._returned.append((lease.epoch, left))
        self.serial += 1

    @property
    def unconfirmed(self) -> list[PeerId]:
        """Dropped workers whose work is not lent again yet."""
        return list(self._withheld)

    def link_lost(self, who: PeerId, now: float) -> None:
        """Note that a worker's connection ended: unless it is heard again soon, it is dropped."""
        worker = self.workers.get(who)
        if worker is not None:
            worker.cut = now

    @property
    def silence(self) -> float:
        """After how many seconds without a word a worker is dropped."""
        return SILENT_SHARE * self.spec.deadline

    def tick(self, now: float) -> list[PeerId]:
        """Drop the workers that were silent for too long; return them.

        A run that nobody worked on for ``lost_after`` seconds fails.
        """
        if self.finished:
            return []
        silent: list[PeerId] = []
        grace = max(LINK_GRACE, 1.5 * self.spec.beat)
        for who, worker in list(self.workers.items()):
            if worker.cut is not None and now - worker.cut > grace:
                since = now - worker.cut
                why = f"its connection ended {since:.1f} s ago, and it was not heard of since"
            elif now - worker.heard > self.silence:
                why = f"not heard of for {now - worker.heard:.1f} s"
            else:
                continue
            self.drop(who, why, now)
            silent.append(who)
        if not self.workers and now - self._alone_since > self.spec.lost_after:
            gone = "; ".join(f"{who.name}: {why}" for who, why in self.dropped.items())
            self.fail(
                f"no worker for {self.spec.lost_after:g} s ({gone or 'none ever joined'}): "
                "start one with `node start`, or raise cluster.lost_after",
                75,
                now,
            )
        return silent

    def _unable(self, worker: Worker, reason: str, now: float) -> None:
        """Drop a worker that cannot work; the run fails where as many as it needs cannot."""
        self.drop(worker.id, reason, now)
        if not self.workers and len(self.dropped) >= self.spec.min_workers:
            reasons = "; ".join(f"{who.name}: {why}" for who, why in self.dropped.items())
            self.fail(f"no worker can work on this run: {reasons}", 2, now)

    def lends_to(self, who: PeerId) -> bool:
        """Say whether a worker has a lease."""
        worker = self.workers.get(who)
        return worker is not None and worker.lease is not None

    def _poisoned(self, worker: Worker, reason: str, now: float) -> None:
        """Drop a worker whose result was not finite; two in short order mean divergence."""
        who = worker.id
        self.strikes.append((self.steps, f"{who.name}: {reason}"))
        recent = [why for step, why in self.strikes if self.steps - step <= STRIKE_STEPS]
        others = [known for known in self.workers if known != who]
        self.drop(who, f"quarantined: {reason}", now)
        alone = not others and self.spec.min_workers == 1
        if len(recent) > 1 or alone:
            self.fail(
                f"training diverged at step {self.steps}: {'; '.join(recent)}: lower train.rate, "
                "or look for values out of range in the data",
                1,
                now,
            )

    def _refuse_dropped(self, who: PeerId) -> None:
        if who in self.dropped:
            raise Evicted(
                f"{who.name} was dropped from run {self.spec.name} ({self.dropped[who]}): "
                "start it again to join anew"
            )

    def _count_step(self, now: float) -> None:
        self.steps += 1
        self.longest_pause = max(self.longest_pause, now - self._last_step)
        self._last_step = now

    def _count_recent(self, examples: int, loss: float, correct: int) -> None:
        if self.recent.examples >= RECENT_EXAMPLES:
            self.recent = Tally()
        self.recent.add(examples, loss, correct)

    # What people see

    def seconds(self, now: float) -> float:
        """Return the seconds spent in training so far."""
        if self.started is None:
            return 0.0
        return (self.ended if self.ended is not None else now) - self.started
