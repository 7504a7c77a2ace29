"""events.jsonl: what is written when, and what becomes of it on a full disk."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

from nodes.training.events import EventLog
from nodes.training.result import Result
from tests.unit.nodes.run_states import state


class Clock:
    """A clock that the test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def end(epoch: int, seconds: float) -> dict[str, Any]:
    """An epoch's end as the run table tells it."""
    return {
        "epoch": epoch,
        "steps": 45 * epoch,
        "examples": 1438 * epoch,
        "loss": 1.0 / epoch,
        "accuracy": 0.9,
        "rate": 0.05,
        "seconds": seconds,
    }


def test_each_event_says_when_and_where_the_run_stood(tmp_path: Path) -> None:
    path, clock = tmp_path / "events.jsonl", Clock()
    with EventLog(path, now=clock) as events:
        events(state(phase="initialise", steps=0, seconds=0.0))
        clock.now = 1001.0
        events(state(steps=10, seconds=0.5))
        events(state(steps=12, seconds=0.6))
        clock.now = 1001.5
        events(state(steps=20, seconds=1.1))  # too soon after the last
        ends = [end(1, 1.25), end(2, 2.0)]
        best = {"epoch": 2, "steps": 90, "loss": 0.4, "accuracy": 0.8}
        clock.now = 1003.5
        events(state(seconds=3.0, epoch_ends=ends, dropped={"worker-1": "not heard of"},
                     validation={"last": best, "best": best}))  # fmt: skip
        clock.now = 1004.0
        events(state(phase="finished", epoch_ends=ends, dropped={"worker-1": "not heard of"},
                     validation={"last": best, "best": best}))  # fmt: skip
        events.end(Result("x", "x", status="done", loss=0.5, accuracy=0.97, test_loss=0.1))
    found = read(path)
    assert [(one["kind"], one["time"], one["step"]) for one in found] == [
        ("phase", 1000.0, 0),
        ("phase", 1001.0, 10),
        ("progress", 1001.0, 12),
        ("epoch", 1001.75, 45),
        ("epoch", 1002.5, 90),
        ("validation", 1003.5, 90),
        ("lost", 1003.5, 1234),
        ("progress", 1003.5, 1234),
        ("phase", 1004.0, 1234),
        ("end", 1004.0, 1234),
    ]
    common = {"time", "kind", "attempt", "step", "epoch", "examples", "loss", "accuracy", "rate",
              "staleness", "samples_per_second", "workers"}  # fmt: skip
    assert all(common <= set(one) for one in found)
    assert found[4]["loss"] == 0.5
    assert found[4]["samples_per_second"] == 1438
    assert (found[6]["name"], found[6]["reason"]) == ("worker-1", "not heard of")
    assert (found[-1]["status"], found[-1]["test_accuracy"]) == ("done", 0.97)


def test_checkpoints_are_told_and_why_there_was_none(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    made = {"asked": 0, "number": 1, "folder": "a", "error": None}
    with EventLog(path) as events:
        for known in (made, made, {**made, "number": 2, "error": "the disk is full"}):
            events(state(checkpoint=known))
    found = [one for one in read(path) if one["kind"] == "checkpoint"]
    assert [(one["folder"], one["error"]) for one in found] == [
        ("a", None),
        (None, "the disk is full"),
    ]


def test_a_resumed_run_appends_its_attempt(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as events:
        events(state(epoch_ends=[end(1, 1.0)]))
    with path.open("a") as file:
        file.write('{"time":1,"ki')  # killed in the middle of a line
    with EventLog(path) as events:
        events(state(attempt=2, epoch_ends=[end(2, 2.0)]))
        events(state(attempt=3, epoch_ends=[end(2, 2.5)]))
    lines = path.read_text().splitlines()
    whole = [json.loads(line) for line in lines if line.endswith("}")]
    assert len(whole) == len(lines) - 1
    assert [(one["attempt"], one["epoch"]) for one in whole if one["kind"] == "epoch"] == [
        (1, 1),
        (2, 2),
        (3, 2),
    ]


def test_a_full_disk_is_one_warning_and_no_broken_line(tmp_path: Path) -> None:
    path, warnings, clock = tmp_path / "events.jsonl", list[str](), Clock()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with EventLog(path, warnings.append, clock) as events:
        events(state(steps=1))
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, limits[1]))
        try:
            for step in range(2, 5):
                clock.now += 1
                events(state(steps=step))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert len(read(path)) == 1
        clock.now += 1
        events(state(steps=9))
    assert [one["step"] for one in read(path)] == [1, 9]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"cannot write {path}: ")


def test_a_folder_that_is_gone_ends_no_run(tmp_path: Path) -> None:
    warnings: list[str] = []
    with EventLog(tmp_path / "none" / "events.jsonl", warnings.append) as events:
        events(state())
        events.end(Result("x", "x"))
    assert len(warnings) == 1
