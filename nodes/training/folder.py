"""The folder of a run: which it is, whose, and who is at work there."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from nodes.training.result import MODEL_FILE
from paramserver.checkpoint import FOLDER, Checkpoint
from paramserver.errors import UserError

RUNS = Path("runs")
LOCK_FILE = ".lock"


def folder_of(run: str, checkpoint: Checkpoint | None) -> Path:
    """Return the folder of a run unless another is given: the one that its checkpoint lies in."""
    home = home_of(checkpoint) if checkpoint is not None else None
    if home is not None:
        return home
    return RUNS / (checkpoint.spec.name if checkpoint is not None else run)


def home_of(checkpoint: Checkpoint) -> Path | None:
    """Return the folder of the run that a checkpoint lies in; None for one that was copied away."""
    return checkpoint.folder.parent.parent if checkpoint.folder.parent.name == FOLDER else None


class RunFolder:
    """The folder of a new run, or of one that goes on ``again``: made and held in the context.

    Unless `keep` is called, the folders that it made and the files that were `brought` go at the end: a
    run that cannot begin leaves nothing, and nothing that is somebody else's is touched.

    Raises:
        UserError: when entered; it cannot be made, holds another run, or another process is at work
            there.
    """

    def __init__(self, path: Path, *, again: bool = False) -> None:
        self.path = path
        self._again = again
        self._made: list[Path] = []
        self._brought: list[Path] = []
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
            for path in reversed(self._brought):  # the lock is the first, so it goes last
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
            for level in reversed(self._made):
                with contextlib.suppress(OSError):
                    level.rmdir()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def brought(self, *paths: Path) -> None:
        """Take files that were not there for a part of this run."""
        self._brought.extend(paths)

    def keep(self) -> None:
        """Let the folder and what lies there outlast the context."""
        self._kept = True

    def _take(self) -> None:
        place = self.path / LOCK_FILE
        while True:
            self._make(self.path)
            fresh = not place.exists()
            lock = os.open(place, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Not where who held it before gave the folder up meanwhile, and the file with it.
                if place.exists() and os.path.samestat(os.fstat(lock), place.stat()):
                    self._lock = lock
                    break
            except BlockingIOError:
                raise UserError(
                    f"{self.path}: another `node train` is at work there; stop it first"
                ) from None
            finally:
                if self._lock is None:
                    os.close(lock)
        if fresh:
            self.brought(place)
        there = (self.path / MODEL_FILE).exists() or any(self.path.glob(f"{FOLDER}/*"))
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
