"""Learning rates by server updates: how they are written, and what they are. Pure, no I/O.

A rate is a number, a table of (first update, rate), or one of the kinds below; a warm-up goes before
each of them. Updates count from 0, the run's clocks in bsp and a slice's own updates otherwise. All
of it is float64, so that every peer finds the same rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Number = Annotated[float, Field(ge=0)]
Factor = Annotated[float, Field(gt=0, le=1)]
Updates = Annotated[int, Field(gt=0, le=1 << 53)]


class _Kind(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class StepRate(_Kind):
    """``start``, multiplied by ``factor`` after every ``every`` updates."""

    kind: Literal["step"]
    start: Number
    factor: Factor
    every: Updates

    def at(self, update: int) -> float:
        """Return the rate of an update."""
        return self.start * self.factor ** (update // self.every)


class ExponentialRate(_Kind):
    """``start``, multiplied by ``factor`` over every ``every`` updates, a little at each one."""

    kind: Literal["exponential"]
    start: Number
    factor: Factor
    every: Updates = 1

    def at(self, update: int) -> float:
        """Return the rate of an update."""
        return self.start * float(self.factor ** (update / self.every))


class CosineRate(_Kind):
    """From ``start`` to ``end`` along half a cosine's wave of ``steps`` updates, then ``end``.

    Loshchilov and Hutter 2017, "SGDR: Stochastic Gradient Descent with Warm Restarts", without the
    restarts.
    """

    kind: Literal["cosine"]
    start: Number
    end: Number = 0.0
    steps: Updates

    def at(self, update: int) -> float:
        """Return the rate of an update."""
        share = min(update / self.steps, 1.0)
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * share)) / 2


Table = tuple[tuple[int, float], ...]

_KINDS: dict[str, type[StepRate] | type[ExponentialRate] | type[CosineRate]] = {
    "step": StepRate,
    "exponential": ExponentialRate,
    "cosine": CosineRate,
}


def rate_at(rate: Rate, update: int, warmup: int = 0) -> float:
    """Return the rate of server update ``update``, counted from 0.

    Over the first ``warmup`` updates it grows from ``1/warmup`` of what ``rate`` says to all of it
    (Goyal et al. 2017, section 2.2); ``rate`` counts its own updates from 0 all the same.
    """
    if isinstance(rate, float | int):
        value = float(rate)
    elif isinstance(rate, tuple):
        value = [of for first, of in rate if first <= update][-1]
    else:
        value = rate.at(update)
    return value * (update + 1) / warmup if update < warmup else value


def _read(value: object) -> object:
    """Read a rate as a person writes it."""
    if isinstance(value, Mapping):
        return _kind(value)
    if isinstance(value, list | tuple):
        return _table(value)
    return value if isinstance(value, _Kind) else _number(value)


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(
            "must be a number, a list of [update, rate] pairs, or keys with a kind "
            f"({', '.join(_KINDS)}), not {value!r}"
        )
    if not 0 <= value < math.inf:
        raise ValueError(f"must be a finite rate of at least 0, not {value!r}")
    return float(value)


def _table(value: list[Any] | tuple[Any, ...]) -> Table:
    pairs: list[tuple[int, float]] = []
    for pair in value:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError(f"must be a list of [update, rate] pairs; {pair!r} is none")
        update, rate = pair
        if not isinstance(update, int) or isinstance(update, bool):
            raise ValueError(f"an update must be a whole number, not {update!r}")
        pairs.append((update, _number(rate)))
    updates = [update for update, _ in pairs]
    if not updates or updates[0] != 0:
        raise ValueError("the first update of a table of rates must be 0")
    if any(later <= earlier for earlier, later in pairwise(updates)):
        raise ValueError("the updates of a table of rates must increase")
    return tuple(pairs)


def _kind(value: Mapping[str, Any]) -> BaseModel:
    name = value.get("kind")
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(f"its kind must be one of {', '.join(_KINDS)}, not {name!r}")
    unknown = [str(key) for key in value if key not in kind.model_fields]
    if unknown:
        known = ", ".join(kind.model_fields)
        raise ValueError(f'unknown key {unknown[0]} for the kind "{name}" (known: {known})')
    return kind.model_validate(dict(value))


Rate = Annotated[
    float | Table | StepRate | ExponentialRate | CosineRate,
    BeforeValidator(_read),
]
"""A rate in a model: read from a number, a list of pairs or a mapping with ``kind``."""
