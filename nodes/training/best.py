"""The best model of a run, across its lives: the file has to be the one that the run table means.

Best weights are kept when a validation finds them, checkpoints now and then: after a crash the file may
be ahead of the checkpoint. So each checkpoint holds the best model of its moment, as a link.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from nodes.models.file import validation_of
from nodes.training.result import BEST_FILE
from paramserver.checkpoint import Checkpoint
from paramserver.console import say


def link(model: Path, place: Path) -> None:
    """Let ``place`` be a second name of a model's file, or a copy; nothing where there is none."""
    with contextlib.suppress(FileNotFoundError):
        try:
            os.link(model, place)
        except FileNotFoundError:
            raise
        except OSError:  # a file system without links
            shutil.copyfile(model, place)


def bring_best(checkpoint: Checkpoint, own: Path, folder: Path) -> None:
    """Have ``folder`` hold the best model that a checkpoint's run table knows, and no other.

    ``own`` is the folder of the run that the checkpoint is of. A model found in a life that is set
    aside keeps another name.
    """
    wanted, place = checkpoint.table["judge"]["best"], folder / BEST_FILE
    there = validation_of(place)
    if wanted is not None and there == wanted:
        return
    if place.exists():
        epoch = f"epoch-{there['epoch']}" if there is not None else "unknown"
        aside = folder / f"best-{epoch}.safetensors"
        place.rename(aside)
        say(f"{place} is not of the life that goes on: it is {aside.name} now")
    for model in (own / BEST_FILE, checkpoint.folder / BEST_FILE):
        if wanted is not None and validation_of(model) == wanted:
            link(model, place)
            return
