"""The folder of a run: which it is, whose, and who is at work there."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from nodes.data.arrays import ARRAYS_FILE
from nodes.training.result import RESULT_FILE
from paramserver.checkpoint import FOLDER, Checkpoint
from paramserver.errors import UserError

RUNS = Path("runs")
LOCK_FILE = ".lock"


def folder_of(run: str, checkpoint: Checkpoint | None) -> Path:
    """Return the folder of a run unless another is given: the one that its checkpoint lies in."""
    if checkpoint is not None and checkpoint.folder.parent.name == FOLDER:
        return checkpoint.folder.parent.parent
    return RUNS / (checkpoint.spec.name if checkpoint is not None else run)


class RunFolder:
    """The folder of a new run, or of one that goes on ``again``: made and held in the context.

    Unless `keep` is called, all that was made goes at the end: a run that cannot begin leaves nothing.

    Raises:
        UserError: when entered; it cannot be made, holds another run, or another process is at work
            there.
    """

    def __init__(self, path: Path, *, again: bool = False) -> None:
        self.path = path
        self._again = again
        self._made: list[Path] = []
        self._there: set[str] = set()
        self._lock: int | None = None
        self._kept = False

    def __repr__(self) -> str:
        return f"<RunFolder {self.path}>"

    def __enter__(self) -> RunFolder:
        try:
            self._take()
        except OSError as error:
            self.__exit__()
            raise UserError(
                f"cannot make the folder {self.path}: {error.strerror}: give another with --output"
            ) from error
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if not self._kept:
            self._undo()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def keep(self) -> None:
        """Let the folder and what lies there outlast the context."""
        self._kept = True

    def _take(self) -> None:
        self._make(self.path)
        self._there = set(os.listdir(self.path))
        lock = os.open(self.path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise UserError(
                f"{self.path}: another `node train` is at work there; stop it first"
            ) from None
        self._lock = lock
        there = (self.path / RESULT_FILE).exists() or any(self.path.glob(f"{FOLDER}/*"))
        if there and not self._again:
            raise UserError(
                f"{self.path} holds another run: give a new folder with --output, or go on with "
                f"--resume {self.path}"
            )

    def _make(self, level: Path) -> None:
        """Make a folder and those above it, and remember which were not there."""
        try:
            self._make_one(level)
        except FileNotFoundError:
            if level.parent == level:
                raise
            self._make(level.parent)
            self._make_one(level)

    def _make_one(self, level: Path) -> None:
        try:
            level.mkdir()
        except FileNotFoundError:
            raise
        except OSError:
            if not level.is_dir():
                raise
        else:
            self._made.append(level)

    def _undo(self) -> None:
        """Remove what a run writes before it begins, where it was not there, and empty folders."""
        with contextlib.suppress(OSError):
            if self._lock is not None:
                for name in set(os.listdir(self.path)) - self._there:
                    if name in (LOCK_FILE, ARRAYS_FILE) or name.endswith(".log"):
                        (self.path / name).unlink()
            for level in reversed(self._made):
                level.rmdir()
