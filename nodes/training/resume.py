"""Going on from a checkpoint: what is read, what must be the same, and what may differ."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file

from nodes.models import Model
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
from paramserver.store import Floats, aligned

TOPOLOGY = ("peers", "shards", "workers")
MAY_CHANGE = re.compile(
    r"cluster\.|device\.|status\.|checkpoint\.|train\.epochs$|data\.(root|path|\w+_path)$"
)


def read(checkpoint: Checkpoint, plan: Plan, output: Path) -> Resume:
    """Read a checkpoint's weights and rule state for the model and the data of ``plan``.

    The run goes on in the folder ``output``, as an attempt above all whose checkpoints lie there.

    Raises:
        BadCheckpoint: it is of another model or other data.
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
    state = TableState(
        _weights(checkpoint.folder / MODEL_FILE, plan.model),
        checkpoint.states(),
        checkpoint.versions,
    )
    return Resume(checkpoint, state, next_attempt(output / FOLDER, checkpoint))


def recipe_of(checkpoint: Checkpoint, sets: Sequence[str], flags: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a checkpoint's run under the command line and the environment.

    Only what says where and how long may differ from the run's: the cluster, the device, paths of
    the data, ``train.epochs``, and what is shown and saved.

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
    before, now = flat(checkpoint.spec.recipe), flat(recipe.dump())
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


def _weights(path: Path, model: Model) -> Floats:
    try:
        tensors = load_file(path)
        weights = aligned(model.size)
        for one in model.layout:
            weights[one.offset : one.offset + one.size] = tensors[one.name].reshape(-1)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise BadCheckpoint(f"{path} does not hold the recipe's model: {error}") from error
    return weights
