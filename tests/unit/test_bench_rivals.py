"""How a case is put down that our side and several rivals have measured."""

from __future__ import annotations

import asyncio
import io
import json

import pytest
from benching.comparing import compare
from benching.printing import Sheet
from benching.rows import Case, Ready

from paramserver.errors import ParamserverError


class Told:
    """A side that measures what it is told."""

    def __init__(self, about: str, ready: Ready, *seconds: float) -> None:
        self.about = about
        self._ready = ready
        self._seconds = list(seconds)

    async def prepare(self, _: object) -> Ready:
        return self._ready

    async def measure(self) -> dict[str, float]:
        return {"seconds": self._seconds.pop(0)}

    async def rest(self) -> None:
        pass


def compared(*, as_json: bool) -> str:
    """Put down two cases; torch is the quicker in one of them, jax in the other."""
    stream = io.StringIO()
    sheet = Sheet(stream, as_json=as_json)
    ours = Told("a device", Ready(1.0), *(1.0, 1.0, 1.0), *(1.0, 1.0, 1.0))
    rivals = {
        # Its quickest turn is the quickest of all, its median is not.
        "torch": Told("torch 1", Ready(1.0, threads=2), *(0.5, 4.0, 4.0), *(2.0, 2.0, 2.0)),
        "jax": Told("jax 1", Ready(1.0, how="NHWC"), *(3.0, 3.0, 3.0), *(4.0, 4.0, 4.0)),
    }
    with sheet.open("made", "up"):
        cases = [Case("a/1", "ms"), Case("b/1", "ms")]
        asyncio.run(compare(sheet, "made", cases, ours, rivals, 3))
    return stream.getvalue()


def test_a_row_is_against_the_rival_quickest_by_its_median_and_says_what_it_was() -> None:
    first, second, mean = map(json.loads, compared(as_json=True).splitlines())
    assert first.items() >= {"against": "jax", "other": 3000.0, "ratio": 3.0}.items()
    assert first.items() >= {"torch": 4000.0, "jax": 3000.0}.items()
    assert first.items() >= {"ours_is": "a device", "other_is": "jax 1, NHWC"}.items()
    assert "other_threads" not in first, "it has no choice"
    assert second.items() >= {"against": "torch", "other": 2000.0, "ratio": 2.0}.items()
    assert second.items() >= {"other_is": "torch 1", "other_threads": 2}.items()
    assert mean["against"] == "jax, torch"


def test_a_table_has_a_column_for_each_rival_and_names_the_quickest() -> None:
    lines = compared(as_json=False).splitlines()
    header, first, second, mean, worst = (line.split() for line in lines[1:6])
    assert header == ["case", "ours", "torch", "jax", "unit", "ratio", "spread", "against"]
    assert first == ["a/1", "1,000", "4,000", "3,000", "ms", "3.00", "0%", "jax"]
    assert second == ["b/1", "1,000", "2,000", "4,000", "ms", "2.00", "0%", "torch"]
    assert mean[:2] == ["geomean", "2.45"]
    assert worst == ["worst:", "b/1", "2.00"]


def test_every_rival_must_agree_with_ours() -> None:
    sheet = Sheet(io.StringIO(), as_json=True)
    rivals = {"torch": Told("", Ready(1.0), 1.0), "jax": Told("", Ready(1.1), 1.0)}
    with pytest.raises(ParamserverError, match=r"made a: our result is 1, that of jax 1\.1: they"):
        asyncio.run(compare(sheet, "made", [Case("a", "ms")], Told("", Ready(1.0), 1.0), rivals, 1))
