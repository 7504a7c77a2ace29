"""What a person sees of a run while it trains: a line every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PERIOD = 2.0


class ProgressLines:
    """Prints a line when the phase changes and every two seconds between."""

    def __init__(
        self, say: Callable[[str], None], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._say = say
        self._now = now
        self._last = -PERIOD
        self._phase: str | None = None
        self._dropped: set[str] = set()

    def __call__(self, state: dict[str, Any]) -> None:
        """Take a run's state; see `paramserver.runreport.snapshot`."""
        for name, why in state["dropped"].items():
            if name not in self._dropped:
                self._dropped.add(name)
                self._say(f"  lost {name}: {why}")
        now = self._now()
        if state["phase"] == self._phase and now - self._last < PERIOD:
            return
        self._phase, self._last = state["phase"], now
        line = self._line(state)
        if line:
            self._say(line)

    @staticmethod
    def _line(state: dict[str, Any]) -> str:
        if state["phase"] == "initialise":
            return "  making the initial weights"
        if state["phase"] == "evaluate":
            return "  evaluating on the test data"
        if state["phase"] != "train" or not state["steps"]:
            return ""
        loss = state["recent_loss"]
        accuracy = state["recent_accuracy"]
        return (
            f"  epoch {min(state['epochs'] + 1, state['epochs_wanted'])}/{state['epochs_wanted']}"
            f"  step {state['steps']:,}"
            f"  loss {loss:.4f}  training accuracy {accuracy:.4f}"
            f"  {state['samples_per_second']:,.0f} examples/s"
            f"  staleness {state['staleness']['mean']:.1f}"
            f"  {len(state['workers'])} workers"
        )
