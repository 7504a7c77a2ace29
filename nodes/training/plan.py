"""What is known of a run before it starts, and of one that goes on from a checkpoint."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass

from nodes.data import Dataset, Schema
from nodes.models import Model
from nodes.recipe import Recipe
from paramserver.checkpoint import Checkpoint, TableState
from paramserver.spec import EarlyStopping, Rule, RunSpec, TableSpec

ADDED = Rule(name="sgd", rate=1.0)
"""The table's rule where workers train locally: it takes from the weights what they push."""


@dataclass(frozen=True, slots=True)
class Resume:
    """A checkpoint to go on from as this attempt, with its weights and rule state in memory.

    ``schema`` is what its model knows of the data; arrays given in memory say less.
    """

    checkpoint: Checkpoint
    table: TableState
    schema: Schema
    attempt: int


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is known of a run before it starts."""

    recipe: Recipe
    dataset: Dataset
    model: Model
    run: str
    resume: Resume | None = None

    def spec(self, *, workers: int, min_workers: int, min_shards: int) -> RunSpec:
        """Return what the cluster is told; ``workers`` is how many the run starts with.

        What decides the bits of a bsp run (table, parts, minibatch, seed) is the checkpoint's where
        the run goes on from one.
        """
        spec = self._fresh(workers, min_workers, min_shards)
        if self.resume is None:
            return spec
        old = self.resume.checkpoint.spec
        new = (
            "epochs",
            "early_stopping",
            "min_workers",
            "min_shards",
            "deadline",
            "lost_after",
            "recipe",
        )
        return old.model_copy(
            update={
                **{key: getattr(spec, key) for key in new},
                "attempt": self.resume.attempt,
                "resumed": True,
                "driver": None,
            }
        )

    def _fresh(self, workers: int, min_workers: int, min_shards: int) -> RunSpec:
        recipe = self.recipe
        train = recipe.train
        bsp = recipe.consistency == "bsp"
        parts = (train.parts if train.parts is not None else workers) if bsp else 1
        local = train.update_rule() if recipe.mode != "gradient" else None
        return RunSpec(
            name=self.run,
            seed=recipe.seed,
            table=TableSpec(
                size=self.model.size,
                rule=train.update_rule() if local is None else ADDED,
                consistency=recipe.consistency,
                parts=parts,
                combine="mean" if recipe.mode == "average" else "update",
            ),
            staleness=recipe.staleness,
            batch_size=train.batch_size,
            period=train.period,
            local=local,
            epochs=train.epochs,
            examples=len(self.dataset.train_x),
            test_examples=len(self.dataset.test_x),
            validation_examples=len(self.dataset.validation_x),
            early_stopping=EarlyStopping(**recipe.early_stopping.model_dump()),
            data_fingerprint=self.dataset.fingerprint(),
            min_workers=min_workers,
            min_shards=min_shards,
            deadline=recipe.cluster.deadline,
            lost_after=recipe.cluster.lost_after,
            recipe=recipe.dump(),
        )


def name_run(recipe: str) -> str:
    """Return a fresh run's name: recipe, local time and four random letters."""
    return f"{recipe}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
