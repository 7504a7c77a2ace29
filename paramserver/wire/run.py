"""Messages between workers, drivers and the run table's primary. Kinds 96 to 127."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from paramserver.wire.messages import message


@message(96)
class Report:
    """What a worker has done since its last report; ``wants`` asks for work.

    ``parts`` holds (clock, part, examples, loss sum, correct); ``ranges`` (lease, position reached,
    examples, loss sum, correct), one for each minibatch; ``evaluated`` (lease, examples, loss sum,
    correct). Reports of a worker are numbered from 1; one sent again under its number counts once.

    ``pushes`` counts logical pushes (applied, duplicate, refused); ``versions`` holds (sum
    of version staleness, slices); ``repeated`` examples whose push may have reached some primaries
    before it was given up and computed anew. ``unable`` says why the worker cannot work on this
    run at all, ``poisoned`` says why its last result was not finite. Devices of one ``kind`` compute
    the same bits.
    """

    run: str
    worker: str
    incarnation: int
    device: str
    data: str
    wants: bool
    number: int
    initialised: bool = False
    parts: list[tuple[int, int, int, float, int]] = field(default_factory=list)
    ranges: list[tuple[int, int, int, float, int]] = field(default_factory=list)
    evaluated: list[tuple[int, int, float, int]] = field(default_factory=list)
    pushes: tuple[int, int, int] = (0, 0, 0)
    versions: tuple[int, int] = (0, 0)
    repeated: int = 0
    poisoned: str | None = None
    unable: str | None = None
    kind: str = ""


@message(97)
class Heartbeat:
    """A worker is alive, though it may be computing."""

    run: str
    worker: str
    incarnation: int


@message(98)
class Noted:
    """The report was noted; there is no work within the time a request may wait: ask again.

    ``recalled`` says that the worker's lease is over before its end.
    """

    recalled: bool = False


@message(99)
class MakeWeights:
    """Work: make the initial weights from the seed and set them."""

    seed: int


@message(100)
class Parts:
    """Work of bsp: compute (part, start, stop) of the epoch's permutation from ``clock``'s weights."""

    clock: int
    epoch: int
    parts: list[tuple[int, int, int]]


@message(101)
class Range:
    """Work of ssp and asp: positions ``[start, stop)`` of the epoch's permutation.

    ``clock`` is the worker's own clock as the run table counts it.
    """

    lease: int
    epoch: int
    start: int
    stop: int
    batch_size: int
    clock: int


@message(102)
class Evaluate:
    """Work: evaluate examples ``[start, stop)`` of a split ("validation" or "test").

    In bsp with the weights at the beginning of ``clock``, else with those of now, which stand still.
    They are the same for all ranges of one pass, which has a ``number`` of its own.
    """

    lease: int
    start: int
    stop: int
    clock: int | None
    split: str
    number: int


@message(103)
class Finished:
    """There is no more work in this run: ``status`` is done, stopped or failed."""

    status: str
    error: str | None


@message(104)
class Admit:
    """Ask whether a worker may pull for iteration ``clock`` (ssp)."""

    run: str
    worker: str
    incarnation: int
    clock: int


@message(105)
class Admitted:
    """Answer to `Admit`; ``least`` is the smallest active clock; not ``ready``: ask again."""

    ready: bool
    least: int


@message(106)
class Follow:
    """Ask for a run's snapshot once its serial is beyond ``after`` (or the wait allowed is over)."""

    run: str
    after: int


@message(107)
class Snapshot:
    """A run's state for people: see `paramserver.runreport.snapshot`."""

    serial: int
    state: dict[str, Any]


@message(108)
class StopRun:
    """End a run in good order: nothing more is lent, what is under way is finished."""

    run: str
    reason: str


@message(109)
class TakeCut:
    """Ask for the run's state for a checkpoint: in bsp as of ``ahead`` clocks from now, else now."""

    run: str
    ahead: int


@message(110)
class CutAt:
    """Answer to `TakeCut` and `CutState`: see `paramserver.runsave.save`.

    ``clock`` is the one whose weights belong to the state, None outside bsp: those of now. Without
    a ``state`` the clock has not come yet: ask for it by `CutState`. ``over`` says that it never
    will, because training ended before.
    """

    clock: int | None
    state: dict[str, Any] | None
    over: bool = False


@message(111)
class CutState:
    """Ask for the state as of ``clock``, once it has come."""

    run: str
    clock: int


@message(112)
class GoOn:
    """Let a resumed run begin: its weights are in place, ``updates`` of them; its state is this."""

    run: str
    state: dict[str, Any]
    updates: int


@message(113)
class AskCheckpoint:
    """Ask the run's driver, through the run table, for a checkpoint."""

    run: str


@message(114)
class Asked:
    """Answer to `AskCheckpoint`: the snapshot's ``checkpoint`` will have this number or a later."""

    number: int


@message(115)
class CheckpointMade:
    """Tell that checkpoint ``number`` was written to ``folder``, or why not."""

    run: str
    number: int
    folder: str | None
    error: str | None


@message(116)
class SetBatchSize:
    """Change the minibatch of a run under way, from the next clock (bsp) or lease on."""

    run: str
    batch_size: int


@message(117)
class Leave:
    """A worker leaves in good order: it has reported all it did, and takes no more work."""

    run: str
    worker: str
    incarnation: int


@message(118)
class Kept:
    """The driver has kept the weights that validation pass ``number`` found best."""

    run: str
    number: int
