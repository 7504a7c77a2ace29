"""A run's state for people: what progress lines, status pages and results are made of."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from paramserver.runtable import RunTable


def snapshot(table: RunTable, now: float) -> dict[str, Any]:
    """Return the run's state as JSON-able values, for progress and status pages."""
    figures = table.figures
    spent = table.seconds(now)
    loss = figures.last_epoch if figures.last_epoch.examples else figures.recent
    return {
        "run": table.spec.name,
        "attempt": table.spec.attempt,
        "phase": table.phase.value,
        "status": table.status,
        "error": table.error,
        "exit_code": table.exit_code,
        "consistency": table.spec.table.consistency,
        "epochs": figures.epochs_done,
        "epochs_wanted": table.spec.epochs,
        "clock": table.clock,
        "final_clock": table.final_clock,
        "steps": figures.steps,
        "examples": figures.examples,
        "examples_wanted": table.spec.examples * table.spec.epochs,
        "repeated_examples": figures.repeated_examples,
        "rate": table.rate,
        "epoch_ends": [end._asdict() for end in figures.epoch_ends],
        "seconds": spent,
        "longest_pause": figures.longest_pause,
        "samples_per_second": figures.examples / spent if spent > 0 else 0.0,
        "loss": loss.mean_loss,
        "recent_loss": figures.recent.mean_loss,
        "recent_accuracy": figures.recent.accuracy,
        "test_loss": figures.test.mean_loss,
        "test_accuracy": figures.test.accuracy,
        "staleness": {
            "mean": figures.staleness.mean,
            "max": figures.staleness.max,
            "versions_mean": figures.versions[0] / figures.versions[1]
            if figures.versions[1]
            else 0.0,
            "clocks": figures.staleness.dump(),
        },
        "pushes": dict(zip(("applied", "duplicate", "refused"), figures.pushes, strict=True)),
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
                "kind": worker.kind,
                "clock": worker.clock,
                "examples": worker.examples,
                "heard_ago": now - worker.heard,
            }
            for who, worker in table.roster.workers.items()
        },
        "dropped": {who.name: why for who, why in table.roster.dropped.items()},
    }
