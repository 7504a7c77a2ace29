"""Run states as a driver gets them."""

from __future__ import annotations

from typing import Any


def state(**changes: Any) -> dict[str, Any]:
    """A run's state as `paramserver.runreport.snapshot` gives it."""
    return {
        "attempt": 1,
        "phase": "train",
        "status": "running",
        "consistency": "asp",
        "epochs": 2,
        "epochs_wanted": 30,
        "steps": 1234,
        "examples": 39_488,
        "examples_wanted": 592_320,
        "seconds": 4.0,
        "samples_per_second": 9_872.0,
        "recent_loss": 0.12344,
        "recent_accuracy": 0.97211,
        "rate": 0.05,
        "epoch_ends": [],
        "staleness": {"mean": 1.26},
        "validation": {"last": None, "best": None},
        "checkpoint": {"asked": 0, "number": 0, "folder": None, "error": None},
        "workers": {"worker-0": {}, "worker-1": {}},
        "dropped": {},
        **changes,
    }
