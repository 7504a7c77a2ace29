"""A run's state for people: what progress lines, status pages and results are made of."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from paramserver.runtable import RunTable


def snapshot(table: RunTable, now: float) -> dict[str, Any]:
    """Return the run's state as JSON-able values, for progress and status pages."""
    spent = table.seconds(now)
    loss = table.last_epoch if table.last_epoch.examples else table.recent
    return {
        "run": table.spec.name,
        "attempt": table.spec.attempt,
        "phase": table.phase.value,
        "status": table.status,
        "error": table.error,
        "exit_code": table.exit_code,
        "consistency": table.spec.table.consistency,
        "epochs": table.epochs_done,
        "epochs_wanted": table.spec.epochs,
        "clock": table.clock,
        "final_clock": table.final_clock,
        "steps": table.steps,
        "examples": table.examples,
        "examples_wanted": table.spec.examples * table.spec.epochs,
        "repeated_examples": table.repeated_examples,
        "rate": table.rate,
        "epoch_ends": [end._asdict() for end in table.epoch_ends],
        "seconds": spent,
        "longest_pause": table.longest_pause,
        "samples_per_second": table.examples / spent if spent > 0 else 0.0,
        "loss": loss.mean_loss,
        "recent_loss": table.recent.mean_loss,
        "recent_accuracy": table.recent.accuracy,
        "test_loss": table.test.mean_loss,
        "test_accuracy": table.test.accuracy,
        "staleness": {
            "mean": table.staleness.mean,
            "max": table.staleness.max,
            "versions_mean": table.versions[0] / table.versions[1] if table.versions[1] else 0.0,
            "clocks": table.staleness.dump(),
        },
        "pushes": dict(zip(("applied", "duplicate", "refused"), table.pushes, strict=True)),
        "validation": {
            "last": table.judge.last,
            "best": table.judge.best,
            "keep": table.to_keep,
        },
        "stopped_because": table.stopped_because,
        "batch_size": table.batch_size,
        "checkpoint": asdict(table.checkpoints),
        "workers": {
            who.name: {
                "incarnation": who.incarnation,
                "device": worker.device,
                "clock": worker.clock,
                "examples": worker.examples,
                "heard_ago": now - worker.heard,
            }
            for who, worker in table.workers.items()
        },
        "dropped": {who.name: why for who, why in table.dropped.items()},
    }
