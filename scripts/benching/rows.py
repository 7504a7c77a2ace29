"""What is measured and what is told of it: cases, rows, and the geometric mean of a suite."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

GEOMEAN = "geomean"
TIMES = {"ms": 1e3, "µs": 1e6}
"""Units of time; every other unit is a rate."""


@dataclass(frozen=True)
class Case:
    """One thing that both sides do.

    A ``unit`` that is no time is a rate, and ``work`` is what one run of the case does, in the
    unit's numerator: Gflop for GFLOP/s. ``given`` is what the sides are told, plain enough for JSON.
    """

    name: str
    unit: str
    work: float = 0.0
    given: Mapping[str, Any] = field(default_factory=dict)

    def figure(self, seconds: float) -> float:
        """Return what a run of ``seconds`` is in the case's unit."""
        return seconds * TIMES[self.unit] if self.unit in TIMES else self.work / seconds


@dataclass(frozen=True)
class Ready:
    """What a side says when it is ready for a case.

    ``result`` is a number made of its results, by which the sides are seen to do the same, or None
    where there is nothing to compare. ``how`` names the way that it chose for the case, and
    ``threads`` the number of its threads, None where it has no choice.
    """

    result: float | None = None
    how: str = ""
    threads: int | None = None


@dataclass(frozen=True)
class Taken:
    """What a side measured in its turns at a case, and what it was.

    A turn holds the seconds of one run under "seconds", and of other ways to do the same under
    names of their own, which become further figures of the row.
    """

    turns: Sequence[Mapping[str, float]]
    about: str = ""
    threads: int | None = None

    @property
    def seconds(self) -> list[float]:
        """The seconds of a run, turn by turn."""
        return [turn["seconds"] for turn in self.turns]

    @property
    def median(self) -> float:
        """The median of these."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Row:
    """What a case came to: medians, their ratio (better when larger), and how much it scattered.

    ``spread`` is the distance of the quartiles of the turns' ratios, by their median. ``ratios``
    are the turns' own; ``more`` holds further figures in the row's unit, and ``said`` what the sides
    are.
    """

    suite: str
    case: str
    ours: float | None
    other: float | None
    against: str
    unit: str
    ratio: float
    ratios: tuple[float, ...]
    more: Mapping[str, Any] = field(default_factory=dict)
    said: Mapping[str, Any] = field(default_factory=dict)

    @property
    def spread(self) -> float:
        """The distance of the quartiles of the turns' ratios, by their median."""
        if len(self.ratios) < 2:
            return 0.0
        low, middle, high = statistics.quantiles(self.ratios, n=4, method="inclusive")
        return (high - low) / middle

    def dump(self) -> dict[str, Any]:
        """Return what ``--json`` prints, with five digits of each number."""
        return {
            "suite": self.suite,
            "case": self.case,
            "ours": _digits(self.ours),
            "other": _digits(self.other),
            "against": self.against,
            "unit": self.unit,
            "ratio": _digits(self.ratio),
            "spread": _digits(self.spread),
            **{name: _digits(value) for name, value in self.more.items()},
            **self.said,
        }


def compared(suite: str, case: Case, ours: Taken, rivals: Mapping[str, Taken]) -> Row:
    """Make a case's row of what our side and its rivals, by name, measured.

    The row is against the rival that is quickest by its median; where there are several, the figure
    of each is told too, under its name.
    """
    against = min(rivals, key=lambda name: rivals[name].median)
    best = rivals[against]
    more = {
        name: case.figure(statistics.median(turn[name] for turn in turns))
        for turns in (ours.turns, best.turns)
        for name in turns[0]
        if name != "seconds"
    }
    if len(rivals) > 1:
        more |= {name: case.figure(taken.median) for name, taken in rivals.items()}
    said = {"ours_is": ours.about, "other_is": best.about, "other_threads": best.threads}
    return Row(
        suite=suite,
        case=case.name,
        ours=case.figure(ours.median),
        other=case.figure(best.median),
        against=against,
        unit=case.unit,
        ratio=best.median / ours.median,
        ratios=tuple(b / a for a, b in zip(ours.seconds, best.seconds, strict=True)),
        more=more,
        said={name: value for name, value in said.items() if value},
    )


def geomean(rows: Sequence[Row]) -> Row:
    """Return a suite's last row: the geometric mean of its ratios, of all and by kind of case.

    A case's kind is its name up to the first slash. The spread is that of the turns' means.
    """
    kinds: dict[str, list[float]] = {}
    for row in rows:
        kinds.setdefault(row.case.partition("/")[0], []).append(row.ratio)
    worst = min(rows, key=lambda row: row.ratio)
    return Row(
        suite=rows[0].suite,
        case=GEOMEAN,
        ours=None,
        other=None,
        against=", ".join(dict.fromkeys(row.against for row in rows)),
        unit="ratio",
        ratio=statistics.geometric_mean(row.ratio for row in rows),
        ratios=tuple(
            statistics.geometric_mean(turn)
            for turn in zip(*(row.ratios for row in rows), strict=True)
        ),
        more={
            "worst": worst.ratio,
            "worst_case": worst.case,
            "kinds": {kind: statistics.geometric_mean(of) for kind, of in kinds.items()},
        },
    )


def _digits(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _digits(inner) for name, inner in value.items()}
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.5g}")
    return value
