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
    run at all, ``poisoned`` says why its last result was not finite.
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
    """Work: evaluate test examples ``[start, stop)`` with the weights that the run ended with.

    These are, in bsp, the weights at the beginning of ``clock``; else those of now.
    """

    lease: int
    start: int
    stop: int
    clock: int | None


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
