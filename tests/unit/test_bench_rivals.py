"""How the benches choose: numbers of threads, the quickest rival, and who takes part."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from benching.choosing import Way, counts, quickest
from benching.comparing import compare
from benching.frameworks import is_installed, load
from benching.machine import cpu_name
from benching.printing import Sheet
from benching.rivals import working
from benching.rows import Case, Ready

from paramserver.errors import NotReady, ParamserverError


@pytest.mark.parametrize(
    ("cores", "worth"),
    [
        (1, (1,)),
        (2, (1, 2)),
        (4, (1, 2, 3, 4)),
        (8, (1, 2, 4, 8)),
        (12, (1, 2, 4, 6, 8, 12)),
        (96, (1, 2, 4, 8, 16, 32, 48, 64, 96)),
    ],
)
def test_all_numbers_of_threads_are_tried_of_few_and_powers_of_two_of_many(
    cores: int, worth: tuple[int, ...]
) -> None:
    assert counts(cores) == worth


class Timed:
    """A loop that takes what it is told, turn by turn."""

    def __init__(self, *seconds: float) -> None:
        self._seconds = list(seconds)

    def seconds(self) -> float:
        return self._seconds.pop(0)


def test_the_way_whose_best_turn_is_quickest_is_chosen_and_gone_back_to() -> None:
    loops = {1: (3.0, 2.5, 3.0), 2: (9.0, 2.0, 9.0), 3: (2.1, 2.1, 2.1)}
    gone_to: list[int | None] = []

    def ready(way: Way) -> Any:
        gone_to.append(way.threads)
        assert way.threads is not None
        return Timed(*loops[way.threads])

    way, _ = quickest([Way(count) for count in loops], ready)
    assert (way, gone_to) == (Way(2), [1, 2, 3, 2])


def test_a_side_without_a_choice_makes_no_trial() -> None:
    way, loop = quickest([Way()], lambda _: Timed())
    assert way == Way()
    assert isinstance(loop, Timed)


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


class Beginning:
    """A side that begins, or fails to."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error
        self.killed = False

    async def begin(self) -> None:
        if self._error is not None:
            raise self._error

    def kill(self) -> None:
        self.killed = True


def test_a_side_that_does_not_begin_is_left_out_and_said() -> None:
    stream = io.StringIO()
    sides = {"torch": Beginning(), "torch.compile": Beginning(NotReady("no C++ compiler"))}
    found = asyncio.run(working(sides, Sheet(stream, as_json=False)))
    assert list(found) == ["torch"]
    assert sides["torch.compile"].killed
    assert stream.getvalue() == "  torch.compile is left out: no C++ compiler\n"
    with pytest.raises(ZeroDivisionError):
        asyncio.run(working({"jax": Beginning(ZeroDivisionError())}, Sheet(stream, as_json=False)))


def test_a_framework_that_is_missing_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "jax", None)
    assert not is_installed("jax", Sheet(sys.stdout, as_json=True))
    said = capsys.readouterr().err
    assert said.startswith("bench: JAX is not installed, so it is left out")
    assert said.endswith("-m pip install jax\n")


def test_what_a_framework_raises_where_it_is_imported_is_translated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bent.py").write_text("raise OSError('libbent.so: no such file')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(NotReady, match="cannot import bent: OSError: libbent.so: no such file"):
        load("bent")


def test_the_processor_is_named_where_the_system_tells_it(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    assert cpu_name(cpuinfo) == "unknown"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Some CPU: 3 GHz\n\nmodel name\t: Other\n")
    assert cpu_name(cpuinfo) == "Some CPU: 3 GHz"
