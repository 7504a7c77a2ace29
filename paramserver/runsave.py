"""A run table as plain values, for checkpoints: taken at a boundary, restored in another life.

In bsp a cut is the state between two clocks. In ssp and asp it may be taken at any time: what is lent
and not reported counts as not done, and is lent again in the next life. Floats keep every bit: JSON
text written by Python reads back as the same number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paramserver.clocks import Histogram
from paramserver.errors import BadCheckpoint
from paramserver.runstate import Tally

if TYPE_CHECKING:
    from paramserver.runtable import RunTable

FORMAT = 2


def save(table: RunTable, now: float) -> dict[str, Any]:
    """Return what a later life of the run needs of its table, as JSON-able values."""
    return {
        "format": FORMAT,
        "consistency": table.spec.table.consistency,
        "examples_an_epoch": table.spec.examples,
        "batch_size": table.batch_size,
        "clock": table.clock,
        "epoch": table.epoch,
        "position": table.position,
        "epochs_done": table.figures.epochs_done,
        "steps": table.figures.steps,
        "examples": table.figures.examples,
        "repeated_examples": table.figures.repeated_examples,
        "pushes": list(table.figures.pushes),
        "versions": list(table.figures.versions),
        "staleness": table.figures.staleness.save(),
        "last_epoch": _tally(table.figures.last_epoch),
        "epoch_tally": _tally(table.epoch_tally),
        "lending": table.lending.save(table.lent()),
        # Best weights that are not kept yet are found again by the next life.
        "judge": table.judge.save() if table.to_keep is None else table.judge.save_before_last(),
        "epochs_wanted": table.spec.epochs,
        "seconds": table.seconds(now),
        "longest_pause": table.figures.longest_pause,
        "kinds": sorted(table.kinds),
    }


def load(table: RunTable, state: Mapping[str, Any], updates: int, now: float) -> None:
    """Let a fresh table go on where another life's was when `save` looked at it.

    ``updates`` is how many updates the weights hold. In ssp and asp pushes may be in the weights that
    the table had not counted yet: their examples are trained again, and counted as repeated.

    Raises:
        BadCheckpoint: the state is not one of this run.
    """
    try:
        _load(table, state, updates)
        seconds = float(state["seconds"])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise BadCheckpoint(f"the run table in the checkpoint is damaged: {error!r}") from error
    table.go_on(seconds, now)


def _load(table: RunTable, state: Mapping[str, Any], updates: int) -> None:
    if state["format"] != FORMAT:
        raise BadCheckpoint(
            f"the run table in the checkpoint has format {state['format']}, this is for {FORMAT}: "
            "use the version of paramserver that wrote it"
        )
    ours = (table.spec.table.consistency, table.spec.examples)
    theirs = (state["consistency"], state["examples_an_epoch"])
    if ours != theirs:
        raise BadCheckpoint(
            f"the checkpoint is of a run in {theirs[0]} with {theirs[1]} examples, this one is in "
            f"{ours[0]} with {ours[1]}: resume with the same recipe and data"
        )
    table.batch_size = int(state["batch_size"])
    table.clock = int(state["clock"])
    table.epoch = int(state["epoch"])
    table.position = int(state["position"])
    table.figures.epochs_done = int(state["epochs_done"])
    table.figures.steps = int(state["steps"])
    table.figures.examples = int(state["examples"])
    table.figures.pushes = [int(count) for count in state["pushes"]]
    table.figures.versions = [int(count) for count in state["versions"]]
    table.figures.staleness = Histogram.load(state["staleness"])
    table.figures.last_epoch = Tally(*state["last_epoch"])
    table.epoch_tally = Tally(*state["epoch_tally"])
    table.lending.load(state["lending"])
    table.judge.load(state["judge"])
    if table.spec.epochs <= state["epochs_wanted"]:  # asked for more, what stopped early goes on
        table.ending = table.judge.verdict()
    table.figures.longest_pause = float(state["longest_pause"])
    table.kinds |= {str(kind) for kind in state.get("kinds", [])}
    again = (updates - table.figures.steps) * table.stride if ours[0] != "bsp" else 0
    table.figures.repeated_examples = max(int(state["repeated_examples"]), again)


def _tally(tally: Tally) -> list[float]:
    return [tally.examples, tally.loss, tally.correct]
