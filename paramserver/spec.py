"""What a cluster is told to hold and to run: tables and training runs.

A `RunSpec` is published as JSON under ``/config/<run>``. It says all that the server's side needs
(sizes, consistency, rule); the worker's side of the recipe travels in it as an opaque map.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from paramserver.types import Consistency

RuleName = Literal["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw"]


BEATS_PER_DEADLINE = 8


class Frozen(BaseModel):
    """A frozen model that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Rule(Frozen):
    """An update rule and its schedule; steps count server updates of a slice, from 0."""

    name: RuleName = "sgd"
    rate: tuple[tuple[Annotated[int, Field(ge=0)], Annotated[float, Field(ge=0)]], ...] = (
        (0, 0.1),
    )
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.999
    decay: float = 0.99
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def rate_at(self, step: int) -> float:
        """Return the learning rate of server update ``step`` (counted from 0)."""
        rate = self.rate[0][1]
        for start, value in self.rate:
            if step < start:
                break
            rate = value
        return rate


class TableSpec(Frozen):
    """A dense table: a flat float32 vector of ``size`` elements and how it is updated.

    ``parts`` is the number of parts of a bsp clock and 1 otherwise.
    """

    size: Annotated[int, Field(gt=0, le=1 << 40)]
    rule: Rule = Rule()
    consistency: Consistency = "asp"
    parts: Annotated[int, Field(gt=0, le=65536)] = 1


class RunSpec(Frozen):
    """One training run as the cluster sees it.

    ``batch_size`` is the global minibatch of one clock in bsp, one push's minibatch otherwise.
    Times are in seconds. ``driver`` is the peer (name, incarnation) that fetches the result.
    """

    name: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._-]+$")]
    attempt: Annotated[int, Field(ge=0)] = 1
    seed: int = 0
    table: TableSpec
    staleness: Annotated[int, Field(ge=0)] = 4
    batch_size: Annotated[int, Field(gt=0)] = 128
    epochs: Annotated[int, Field(gt=0)] = 5
    examples: Annotated[int, Field(gt=0)]
    test_examples: Annotated[int, Field(ge=0)] = 0
    data_fingerprint: str = ""
    min_workers: Annotated[int, Field(gt=0)] = 1
    min_shards: Annotated[int, Field(gt=0)] = 1
    deadline: Annotated[float, Field(gt=0)] = 10.0
    lost_after: Annotated[float, Field(gt=0)] = 60.0
    driver: tuple[str, int] | None = None
    recipe: dict[str, Any] = Field(default_factory=dict)

    @property
    def beat(self) -> float:
        """How many seconds pass between two heartbeats of a worker."""
        return self.deadline / BEATS_PER_DEADLINE

    @property
    def table_name(self) -> str:
        """The name of the run's table of weights."""
        return f"{self.name}/model"
