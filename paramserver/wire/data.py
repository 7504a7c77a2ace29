"""Messages between workers and shards: weights out, updates in. Kinds 64 to 95.

Every data message names (slice, chain epoch) for each slice it touches; bodies are the slices'
float32 ranges one after another, in the order of ``slices``.
"""

from __future__ import annotations

from paramserver.wire.messages import message


@message(64)
class Initialise:
    """Set the first weights of slices; ``slices`` holds (index, chain epoch). Body: weights."""

    table: str
    slices: list[tuple[int, int]]


@message(65)
class Initialised:
    """Answer to `Initialise`: how many slices took the weights (others had some)."""

    taken: int


@message(66)
class Pull:
    """Ask for slices by (index, chain epoch); in bsp as they stand at the beginning of ``clock``."""

    table: str
    slices: list[tuple[int, int]]
    clock: int | None


@message(67)
class Pulled:
    """Answer to `Pull`: per slice (chain epoch, n, clock). Body: weights; empty where not ready.

    ``ready`` is False where the weights asked for did not exist within the time a request may wait;
    ask again.
    """

    ready: bool
    versions: list[tuple[int, int, int]]


@message(68)
class Push:
    """Push an update of ssp or asp: the id is (worker, incarnation, sequence). Body: gradient.

    ``slices`` holds (index, chain epoch, n of the version pulled); below ``settled`` every push of
    this worker is answered. The shard multiplies the gradient by ``scale``.
    """

    table: str
    worker: str
    incarnation: int
    sequence: int
    settled: int
    scale: float
    slices: list[tuple[int, int, int]]


@message(69)
class PushPart:
    """Push a part of a bsp clock: the id is (clock, part). Body: the sum over its examples."""

    table: str
    worker: str
    incarnation: int
    clock: int
    part: int
    examples: int
    slices: list[tuple[int, int, int]]


@message(70)
class Held:
    """Interim answer to `PushPart`: the part is alive at this primary."""

    clock: int
    part: int


@message(71)
class Pushed:
    """Answer to a push: applied and, in bsp, whether its clock closed within the wait allowed.

    ``repeats`` counts slices that had it already; ``staleness`` is the sum over slices of the
    updates applied since the version pulled, ``slices`` their count.
    """

    committed: bool
    repeats: int
    staleness: int
    slices: int


@message(72)
class Evict:
    """Refuse a worker's incarnation for good, on one table. Sent by the run table's primary."""

    table: str
    worker: str
    incarnation: int


@message(73)
class WasEvicted:
    """Answer to `Evict`: the highest push sequence that was taken of it, -1 if none."""

    highest: int


@message(74)
class Capture:
    """Ask for weights and rule state of slices by (index, chain epoch), as of one moment.

    In bsp that is the beginning of ``clock``, which must not have passed; else it is now.
    """

    table: str
    slices: list[tuple[int, int]]
    clock: int | None


@message(75)
class Captured:
    """Answer to `Capture`: per slice (n, clock). Body: the weights of all slices, then each state.

    ``ready`` is False where the clock had not begun within the time a request may wait; ask again.
    """

    ready: bool
    versions: list[tuple[int, int]]


@message(76)
class Restore:
    """Set slices that have no weights yet to what `Captured` held in another life. Body as there.

    ``slices`` holds (index, chain epoch), ``versions`` (n, clock) of each.
    """

    table: str
    slices: list[tuple[int, int]]
    versions: list[tuple[int, int]]
