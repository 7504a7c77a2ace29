"""What a cluster is told to hold and to run: tables and training runs.

A `RunSpec` is published as JSON under ``/config/<run>``. It says all that the server's side needs
(sizes, consistency, rule); the worker's side of the recipe travels in it as an opaque map.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from paramserver.schedule import Rate, rate_at
from paramserver.types import Consistency

RuleName = Literal["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw"]
Mode = Literal["gradient", "delta", "average"]
Combine = Literal["update", "mean"]

BEATS_PER_DEADLINE = 8
MOST_EXAMPLES = 1 << 31
LONGEST_PERIOD = 10_000


class Frozen(BaseModel):
    """A frozen model that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Rule(Frozen):
    """An update rule and its schedule; updates are a slice's on the server, counted from 0.

    ``rate`` is a number, pairs of (first update, rate) or a kind of `paramserver.schedule`, and
    grows to what it says over the first ``warmup`` updates.
    """

    name: RuleName = "sgd"
    rate: Rate = 0.1
    warmup: Annotated[int, Field(ge=0)] = 0
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.999
    decay: float = 0.99
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def rate_at(self, step: int) -> float:
        """Return the learning rate of server update ``step`` (counted from 0)."""
        return rate_at(self.rate, step, self.warmup)


class TableSpec(Frozen):
    """A dense table: a flat float32 vector of ``size`` elements and how it is updated.

    ``parts`` is the number of parts of a bsp clock and 1 otherwise. With ``combine`` "update" what
    is pushed goes through the rule; with "mean", in bsp only, a clock's parts are weights, and their
    mean weighted by examples is the next version.
    """

    size: Annotated[int, Field(gt=0, le=1 << 40)]
    rule: Rule = Rule()
    consistency: Consistency = "asp"
    parts: Annotated[int, Field(gt=0, le=65536)] = 1
    combine: Combine = "update"

    @model_validator(mode="after")
    def _check(self) -> TableSpec:
        if self.combine == "mean" and self.consistency != "bsp":
            raise ValueError(f"a mean needs bsp, not {self.consistency}")
        return self


class EarlyStopping(Frozen):
    """When training ends before its epochs are over.

    After ``patience`` epochs without a validation ``metric`` better by more than ``threshold``, or
    after so many ``seconds`` of training; None: never.
    """

    patience: Annotated[int, Field(gt=0)] | None = None
    threshold: Annotated[float, Field(ge=0)] = 0.0
    metric: Literal["loss", "accuracy"] = "loss"
    seconds: Annotated[float, Field(gt=0)] | None = None


class RunSpec(Frozen):
    """One training run as the cluster sees it.

    ``batch_size`` is the global minibatch of one clock in bsp, one push's minibatch otherwise; with
    a ``period`` of k, one clock or push covers k of them. ``local`` is the rule that workers train
    with between two exchanges, None where they push gradients and the table's rule does it all.
    Times are in seconds. ``driver`` is the peer (name, incarnation) that fetches the result. A
    ``resumed`` run begins with the weights and the state that its driver brings.
    """

    name: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._-]+$")]
    attempt: Annotated[int, Field(ge=0)] = 1
    seed: int = 0
    table: TableSpec
    staleness: Annotated[int, Field(ge=0)] = 4
    batch_size: Annotated[int, Field(gt=0)] = 128
    period: Annotated[int, Field(gt=0, le=LONGEST_PERIOD)] = 1
    local: Rule | None = None
    epochs: Annotated[int, Field(gt=0)] = 5
    examples: Annotated[int, Field(gt=0, le=MOST_EXAMPLES)]
    test_examples: Annotated[int, Field(ge=0, le=MOST_EXAMPLES)] = 0
    validation_examples: Annotated[int, Field(ge=0, le=MOST_EXAMPLES)] = 0
    early_stopping: EarlyStopping = EarlyStopping()
    data_fingerprint: str = ""
    min_workers: Annotated[int, Field(gt=0)] = 1
    min_shards: Annotated[int, Field(gt=0)] = 1
    deadline: Annotated[float, Field(gt=0)] = 10.0
    lost_after: Annotated[float, Field(gt=0)] = 60.0
    driver: tuple[str, int] | None = None
    resumed: bool = False
    recipe: dict[str, Any] = Field(default_factory=dict)

    @property
    def mode(self) -> Mode:
        """What workers push: the gradient, the difference after local steps, or their weights."""
        if self.local is None:
            return "gradient"
        return "average" if self.table.combine == "mean" else "delta"

    @property
    def rule(self) -> Rule:
        """The rule that the recipe names, and whose rate is the run's."""
        return self.local if self.local is not None else self.table.rule

    @property
    def beat(self) -> float:
        """How many seconds pass between two heartbeats of a worker."""
        return self.deadline / BEATS_PER_DEADLINE

    @property
    def table_name(self) -> str:
        """The name of the run's table of weights."""
        return f"{self.name}/model"
