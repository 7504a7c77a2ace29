"""The folder of a run: which it is, whose, and who is at work there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from nodes.training.result import RESULT_FILE
from paramserver.checkpoint import FOLDER, Checkpoint
from paramserver.errors import UserError

RUNS = Path("runs")
LOCK_FILE = ".lock"


def folder_of(run: str, checkpoint: Checkpoint | None) -> Path:
    """Return the folder of a run unless another is given: the one that its checkpoint lies in."""
    if checkpoint is not None:
        own = home_of(checkpoint)
        return own if own is not None else RUNS / checkpoint.spec.name
    return RUNS / run


def home_of(checkpoint: Checkpoint) -> Path | None:
    """Return the folder of the run that a checkpoint is of; None where it lies elsewhere."""
    return checkpoint.folder.parent.parent if checkpoint.folder.parent.name == FOLDER else None


@contextlib.contextmanager
def made(folder: Path, *, again: bool = False) -> Iterator[None]:
    """Make the folder of a new run, or take that of one which goes on ``again``.

    Where what follows in the context fails, no new folder is left.

    Raises:
        UserError: it cannot be made, or holds another run.
    """
    new = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the folder {folder}: {error.strerror}: give another with --output"
        ) from error
    if not again and ((folder / RESULT_FILE).exists() or any(folder.glob(f"{FOLDER}/*"))):
        raise UserError(
            f"{folder} holds another run: give a new folder with --output, or go on with "
            f"--resume {folder}"
        )
    try:
        yield
    except BaseException:
        if new:
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            for parent in new[1:]:
                parent.rmdir()
        raise


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run's folder for this process alone while the context is open.

    Raises:
        UserError: another process is at work there.
    """
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{folder}: another `node train` is at work there; stop it first"
            ) from None
        yield
    finally:
        os.close(descriptor)
