"""Rates by server updates against their closed forms, and what is no rate."""

import json
import math

import pytest
from pydantic import ValidationError

from paramserver.spec import Rule


def test_a_number_stays_as_it_is() -> None:
    rule = Rule(rate=1)
    assert [rule.rate_at(update) for update in (0, 1, 10**6)] == [1.0, 1.0, 1.0]


def test_a_table_holds_from_its_updates_on() -> None:
    rule = Rule(rate=[[0, 0.1], [100, 0.01], [200, 0.0]])
    assert [rule.rate_at(update) for update in (0, 99, 100, 199, 200, 10**9)] == [
        0.1,
        0.1,
        0.01,
        0.01,
        0.0,
        0.0,
    ]


@pytest.mark.parametrize("update", [0, 1, 99, 100, 101, 250, 999, 1000, 5000])
def test_every_kind_has_its_closed_form(update: int) -> None:
    step = Rule(rate={"kind": "step", "start": 0.4, "factor": 0.5, "every": 100})
    assert step.rate_at(update) == pytest.approx(0.4 / 2 ** (update // 100), rel=1e-14)
    falling = Rule(rate={"kind": "exponential", "start": 0.4, "factor": 0.5, "every": 100})
    assert falling.rate_at(update) == pytest.approx(0.4 * math.exp2(-update / 100), rel=1e-12)
    each = Rule(rate={"kind": "exponential", "start": 0.4, "factor": 0.999})
    assert each.rate_at(update) == pytest.approx(0.4 * 0.999**update, rel=1e-12)
    wave = Rule(rate={"kind": "cosine", "start": 0.4, "end": 0.1, "steps": 1000})
    share = min(update / 1000, 1)
    # The half-angle form of (1 + cos) / 2.
    assert wave.rate_at(update) == pytest.approx(
        0.1 + 0.3 * math.cos(math.pi * share / 2) ** 2, rel=1e-12
    )


@pytest.mark.parametrize(
    "rate",
    [
        0.4,
        [[0, 0.4], [5, 0.2]],
        {"kind": "step", "start": 0.4, "factor": 0.5, "every": 3},
        {"kind": "exponential", "start": 0.4, "factor": 0.9},
        {"kind": "cosine", "start": 0.4, "steps": 20},
    ],
)
def test_a_warm_up_goes_before_each(rate: object) -> None:
    plain, warm = Rule(rate=rate), Rule(rate=rate, warmup=10)
    for update in range(30):
        share = min((update + 1) / 10, 1)
        assert warm.rate_at(update) == pytest.approx(plain.rate_at(update) * share, rel=1e-14)
    assert warm.rate_at(9) == plain.rate_at(9)
    assert Rule.model_validate(json.loads(warm.model_dump_json())) == warm


@pytest.mark.parametrize(
    ("rate", "where", "word"),
    [
        ("fast", "", "must be a number, a list"),
        (True, "", "must be a number, a list"),
        (-0.1, "", "at least 0"),
        (math.nan, "", "finite"),
        ([], "", "must be 0"),
        ([[5, 0.1]], "", "must be 0"),
        ([[0, 0.1], [0, 0.2]], "", "must increase"),
        ([[0, 0.1], [1.5, 0.2]], "", "whole number"),
        ([[0, 0.1, 2]], "", "pairs"),
        ([0.1, 0.2], "", "pairs"),
        ({"start": 0.1}, "", "kind must be one of step, exponential, cosine, not None"),
        ({"kind": "linear"}, "", "kind must be one of step, exponential, cosine, not 'linear'"),
        (
            {"kind": "cosine", "start": 0.1, "steps": 9, "every": 2},
            "",
            'unknown key every for the kind "cosine" (known: kind, start, end, steps)',
        ),
        ({"kind": "cosine", "start": 0.1}, "steps", "required"),
        ({"kind": "cosine", "start": 0.1, "steps": 1.5}, "steps", "integer"),
        ({"kind": "exponential", "start": math.inf, "factor": 0.5}, "start", "finite"),
        ({"kind": "exponential", "start": 0.1, "factor": 1.5}, "factor", "less than or equal"),
        ({"kind": "step", "start": 0.1, "factor": 0.5, "every": 0}, "every", "greater than 0"),
    ],
)
def test_what_is_no_rate_is_refused(rate: object, where: str, word: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Rule(rate=rate)
    (error,) = caught.value.errors()
    assert ".".join(map(str, error["loc"])) == f"rate.{where}".rstrip(".")
    assert word in error["msg"]
