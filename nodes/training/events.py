"""events.jsonl: what happened in a run, one JSON object a line, by step and time.

Every event has ``time`` (Unix seconds), ``kind``, ``attempt``, ``step``, ``epoch`` (epochs done),
``examples``, ``loss`` and ``accuracy`` (training), ``rate``, ``staleness`` (mean, in clocks),
``samples_per_second`` (training so far) and ``workers`` (a count). By kind:

- ``progress``: once a second at most, while steps are made; loss and accuracy are the latest.
- ``epoch``: an epoch is done; loss and accuracy are that epoch's.
- ``validation``: the run was validated: ``validation_loss``, ``validation_accuracy``, and whether
  that is its ``best`` so far.
- ``phase``: ``phase`` began: initialise, train, validate, evaluate or finished.
- ``lost``: the worker ``name`` was dropped, with the ``reason``.
- ``checkpoint``: one was written into ``folder`` while the run goes on; where it could not be, an
  ``error`` says why and ``folder`` is null.
- ``end``: the run's end, with ``status``, ``error``, ``stopped_because``, ``test_loss``,
  ``test_accuracy`` and ``seconds`` of training; loss and accuracy are the latest.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nodes.training.progress import Losses
from nodes.training.result import Result
from paramserver.console import say
from paramserver.status.document import encode

EVENTS_FILE = "events.jsonl"
PERIOD = 1.0

State = Mapping[str, Any]


class EventLog:
    """Appends a run's events to a file, each line at once and whole.

    What cannot be written is left out, with one warning: a full disk does not end a run. ``now``
    gives Unix seconds, ``validated`` is the epoch whose validation an earlier life told last. Use as
    a context manager.
    """

    def __init__(
        self,
        path: Path,
        warn: Callable[[str], None] = say,
        now: Callable[[], float] = time.time,
        *,
        validated: int = 0,
    ) -> None:
        self._path = path
        self._warn = warn
        self._now = now
        self._file: int | None = None
        self._warned = False
        self._attempt: int | None = None
        self._phase: str | None = None
        self._epoch = 0
        self._validated = validated
        self._saved = 0
        self._losses = Losses()
        self._last = 0.0
        self._latest = 0.0
        self._step = 0
        self._standing = _standing(None)

    def __repr__(self) -> str:
        return f"<EventLog {self._path}, step {self._step}>"

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __call__(self, state: State) -> None:
        """Write what is new in a run's state; see `paramserver.runreport.snapshot`."""
        now = self._now()
        if state["attempt"] != self._attempt:
            self._attempt, self._phase = state["attempt"], None
            self._epoch = self._step = self._saved = 0
            self._losses = Losses()
        self._standing = _standing(state)
        for end in state["epoch_ends"]:
            if end["epoch"] > self._epoch:
                self._epoch = end["epoch"]
                ago = state["seconds"] - end["seconds"]
                self._write_epoch(end, min(max(now - ago, self._latest), now))
        self._note_validation(state["validation"], now)
        for name, reason in self._losses.new(state):
            self._write("lost", now, name=name, reason=reason)
        if state["checkpoint"]["number"] != self._saved:
            known = state["checkpoint"]
            self._saved, error = known["number"], known["error"]
            folder = known["folder"] if error is None else None
            self._write("checkpoint", now, folder=folder, error=error)
        if state["phase"] != self._phase:
            self._phase = state["phase"]
            self._write("phase", now, phase=self._phase)
        elif self._due(state, now):
            self._last, self._step = now, state["steps"]
            self._write("progress", now)

    def end(self, result: Result) -> None:
        """Write how the run ended."""
        self._write(
            "end",
            self._now(),
            status=result.status,
            error=result.error,
            stopped_because=result.stopped_because,
            test_loss=result.test_loss,
            test_accuracy=result.accuracy,
            seconds=result.seconds,
        )

    def _note_validation(self, validation: Mapping[str, Any], now: float) -> None:
        last = validation["last"]
        if last is not None and last["epoch"] > self._validated:
            self._validated = last["epoch"]
            self._write(
                "validation",
                now,
                step=last["steps"],
                epoch=last["epoch"],
                validation_loss=last["loss"],
                validation_accuracy=last["accuracy"],
                best=last == validation["best"],
            )

    def _due(self, state: State, now: float) -> bool:
        # A system's clock that is set back is no reason to fall silent.
        waited = not 0 <= now - self._last < PERIOD
        return state["phase"] == "train" and state["steps"] > self._step and waited

    def _write_epoch(self, end: Mapping[str, Any], now: float) -> None:
        self._write(
            "epoch",
            now,
            step=end["steps"],
            epoch=end["epoch"],
            examples=end["examples"],
            loss=end["loss"],
            accuracy=end["accuracy"],
            rate=end["rate"],
            samples_per_second=end["examples"] / end["seconds"] if end["seconds"] > 0 else 0.0,
        )

    def _write(self, kind: str, now: float, **more: Any) -> None:
        self._latest = now
        event = {"time": round(now, 3), "kind": kind, "attempt": self._attempt}
        try:
            self._append(encode({**event, **self._standing, **more}) + b"\n")
        except OSError as error:
            if not self._warned:
                self._warned = True
                self._warn(f"cannot write {self._path}: {error.strerror}: going on without")

    def _append(self, line: bytes) -> None:
        """Append a line whole or not at all.

        Raises:
            OSError: it could not be written.
        """
        if self._file is None:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            line = _end_of_broken_line(self._file) + line
        size = os.fstat(self._file).st_size
        if os.write(self._file, line) < len(line):
            os.ftruncate(self._file, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _standing(state: State | None) -> dict[str, Any]:
    """Return where a run stands; before its first state everything is zero or unknown."""
    if state is None:
        return {
            "step": 0,
            "epoch": 0,
            "examples": 0,
            "loss": None,
            "accuracy": None,
            "rate": None,
            "staleness": 0.0,
            "samples_per_second": 0.0,
            "workers": 0,
        }
    return {
        "step": state["steps"],
        "epoch": state["epochs"],
        "examples": state["examples"],
        "loss": state["recent_loss"],
        "accuracy": state["recent_accuracy"],
        "rate": state["rate"],
        "staleness": state["staleness"]["mean"],
        "samples_per_second": state["samples_per_second"],
        "workers": len(state["workers"]),
    }


def _end_of_broken_line(file: int) -> bytes:
    """Return what ends the last line of a file, where an earlier life of the run was cut off."""
    with contextlib.suppress(OSError):  # no file that could be read there
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":
            return b"\n"
    return b""
