"""What a person sees of a run while it trains: drawn in a terminal, or a line every few seconds."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from nodes.training.result import Result
from paramserver.console import say
from paramserver.phrases import counted

PERIOD = 2.0
WIDTH = 80

State = Mapping[str, Any]


class Show(StrEnum):
    """How a run's progress is shown: auto is drawn in a terminal, lines elsewhere."""

    AUTO = "auto"
    LINES = "lines"
    NONE = "none"


class Progress:
    """Shows nothing of a run; what derives from it shows something.

    Open it as a context manager for as long as the run is to be seen.
    """

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, state: State) -> None:
        """Take a run's state; see `paramserver.runreport.snapshot`."""

    def end(self, result: Result) -> None:
        """Take how the run ended."""

    def close(self) -> None:
        """Leave the terminal as it should be, whatever else is still open."""


def open_progress(show: Show) -> Progress:
    """Return what shows a run on this process's stderr."""
    if show is Show.NONE:
        return Progress()
    if show is Show.AUTO and sys.stderr is not None and sys.stderr.isatty() and in_foreground():
        from nodes.training.terminal import TerminalProgress, drawable  # rich takes a while

        if drawable():
            return TerminalProgress()
    return ProgressLines()


def in_foreground() -> bool:
    """Say whether the terminal's own program is this one: a job in the background draws nothing."""
    try:
        return os.tcgetpgrp(sys.stderr.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return True  # not this session's terminal: nobody else writes there


class Losses:
    """Knows which workers' loss was told already."""

    def __init__(self) -> None:
        self._told: dict[str, str] = {}

    def new(self, state: State) -> list[tuple[str, str]]:
        """Return (name, reason) of each worker that was lost since this was last asked."""
        found = [
            (name, why) for name, why in state["dropped"].items() if self._told.get(name) != why
        ]
        self._told.update(found)
        return found


class ProgressLines(Progress):
    """Prints a line when the phase changes and every two seconds between, of 80 columns at most."""

    def __init__(
        self, say: Callable[[str], None] = say, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._say = say
        self._now = now
        self._last = -PERIOD
        self._phase: str | None = None
        self._losses = Losses()

    def __call__(self, state: State) -> None:
        """Take a run's state; see `paramserver.runreport.snapshot`."""
        for name, why in self._losses.new(state):
            self._say(f"lost {name}: {why}")
        now = self._now()
        phase = "train" if trains(state) else state["phase"]
        if phase == self._phase and now - self._last < PERIOD:
            return
        line = _line(state)
        if line:
            self._phase, self._last = phase, now
            self._say(line)


def trains(state: State) -> bool:
    """Say whether a run is in its epochs: training, or validating between them."""
    return state["phase"] in ("train", "validate")


def waiting(state: State) -> str | None:
    """Return what a run that does not train now is doing, None for one that trains."""
    texts = {
        "initialise": "making the initial weights"
        if state["attempt"] == 1
        else "bringing the checkpoint back",
        "evaluate": "evaluating on the test data",
        "finished": "keeping the model" if state["status"] != "failed" else None,
    }
    return texts.get(state["phase"])


def number(value: float | None) -> str:
    """Return a loss or an accuracy as text."""
    return f"{value:.4f}" if value is not None else "none"


def workers(state: State) -> str:
    """Return how many workers there are, as text."""
    return counted(len(state["workers"]), "worker")


def epoch(state: State) -> str:
    """Return the epoch under way of all epochs, as text."""
    wanted = state["epochs_wanted"]
    return f"epoch {min(state['epochs'] + 1, wanted)}/{wanted}"


def _line(state: State) -> str | None:
    if not trains(state):
        return waiting(state) if state["phase"] != "finished" else None
    if not state["steps"]:
        return None
    stale = f"stale {state['staleness']['mean']:.1f}" if state["consistency"] != "bsp" else ""
    accuracy, validated = state["recent_accuracy"], state["validation"]["last"]
    fields = {
        "epoch": epoch(state),
        "step": f"step {state['steps']:,}",
        "loss": f"loss {number(state['recent_loss'])}" if state["recent_loss"] is not None else "",
        "accuracy": f"acc {number(accuracy)}" if accuracy is not None else "",
        "validation": f"val {number(validated['loss'])}" if validated is not None else "",
        "speed": f"{state['samples_per_second']:,.0f}/s",
        "stale": stale,
        "workers": workers(state),
    }
    for left_out in ("", "stale", "validation", "step", "accuracy", "workers"):
        fields.pop(left_out, None)
        line = _joined(list(fields.values()))
        if len(line) <= WIDTH:
            break
    return line


def _joined(fields: Sequence[str]) -> str:
    return "  ".join(field for field in fields if field)
