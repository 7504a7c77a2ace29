"""Going on from a checkpoint: what is read, what must be the same, and what may differ."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nodes.errors import ModelError
from nodes.models import Model
from nodes.models.file import Saved, unpack
from nodes.recipe import ALIASES, Recipe, absolute
from nodes.training.plan import Plan, Resume
from paramserver.checkpoint import (
    FOLDER,
    MANIFEST,
    MODEL_FILE,
    Checkpoint,
    TableState,
    next_attempt,
)
from paramserver.configfile import load
from paramserver.errors import BadCheckpoint, ConfigurationError
from paramserver.runsave import load as load_table
from paramserver.runtable import RunTable
from paramserver.slices import aligned

TOPOLOGY = ("peers", "shards", "workers")
MAY_CHANGE = re.compile(
    r"(cluster|device|status|checkpoint|early_stopping)\."
    r"|train\.epochs$|data\.(root|path|\w+_path)$"
)


def read(checkpoint: Checkpoint, plan: Plan, output: Path) -> Resume:
    """Read a checkpoint's weights and rule state for the model and the data of ``plan``.

    The run goes on in the folder ``output``, as an attempt above all whose checkpoints lie there.

    Raises:
        BadCheckpoint: it is of another model or other data, or its run table is damaged.
    """
    spec = checkpoint.spec
    if spec.table.size != plan.model.size:
        raise BadCheckpoint(
            f"checkpoint {checkpoint.folder}: it has {spec.table.size:,} parameters, the recipe's "
            f"model {plan.model.size:,}"
        )
    fingerprint = plan.dataset.fingerprint()
    if spec.data_fingerprint != fingerprint:
        raise BadCheckpoint(
            f"checkpoint {checkpoint.folder}: the run trained on other data (fingerprint "
            f"{spec.data_fingerprint}, here {fingerprint}): give it the same data"
        )
    saved = _saved(checkpoint.folder / MODEL_FILE, plan.model)
    weights = aligned(plan.model.size)
    weights[:] = saved.weights
    load_table(RunTable(spec, 0.0), checkpoint.table, 0, 0.0)  # before anything is started
    state = TableState(weights, checkpoint.states(), checkpoint.versions)
    return Resume(checkpoint, state, saved.schema, next_attempt(output / FOLDER, checkpoint))


def recipe_of(checkpoint: Checkpoint, sets: Sequence[str], flags: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a checkpoint's run under the command line and the environment.

    Only what says where and how long may differ from the run's: the cluster, the device, paths of
    the data, ``train.epochs``, when to stop early, and what is shown and saved.

    Raises:
        ConfigurationError: one line for each key that may not.
    """
    document = dict(checkpoint.spec.recipe)
    if any(flags.get(f"cluster.{key}") is not None for key in TOPOLOGY):
        cluster = document.get("cluster", {})
        document["cluster"] = {key: cluster[key] for key in cluster if key not in TOPOLOGY}
    recipe = load(
        Recipe,
        document=document,
        name=str(checkpoint.folder / MANIFEST),
        aliases=ALIASES,
        sets=sets,
        flags=flags,
    ).config
    # Through today's classes, since what an older version wrote may lack keys that have a default.
    before = flat(Recipe.model_validate(checkpoint.spec.recipe).dump())
    now = flat(recipe.dump())
    faults = [
        f"{key}: cannot change in a run that goes on (it is {before.get(key)!r})"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not MAY_CHANGE.match(key)
    ]
    if faults:
        raise ConfigurationError("\n".join(faults))
    return absolute(recipe)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by dotted key."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found.update(flat(value, f"{prefix}{key}."))
        else:
            found[prefix + key] = value
    return found


def _saved(path: Path, model: Model) -> Saved:
    """Read the model's file of a checkpoint.

    Raises:
        BadCheckpoint: it does not hold the recipe's model.
    """
    try:
        saved = unpack(path)
    except ModelError as error:
        raise BadCheckpoint(str(error)) from error
    if saved.model.layout != model.layout:
        raise BadCheckpoint(f"{path}: its layers are not those of the recipe's model")
    return saved
