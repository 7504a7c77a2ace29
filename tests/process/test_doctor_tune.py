"""The doctor's search for the best cuts of products, as a person runs it."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import pytest

from kernels.device.discovery import numpy_device
from paramserver.doctor import tune
from tests.support.process import ROOT, run

pytestmark = pytest.mark.usefixtures("no_orphans")


def test_a_device_without_a_choice_says_so(tmp_path: Path) -> None:
    done = run("paramserver", "doctor", "--tune", "--device", "numpy", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing to choose on this device" in done.stdout


async def told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> tuple[int, list[list[str]]]:
    """Return the exit code and the words of each line where a search tells two classes."""
    (tmp_path / "searches.py").write_text(
        "from paramserver.doctor.child import Voice\n"
        "voice = Voice()\n"
        f"voice.tell(device={asdict(numpy_device())!r})\n"
        "voice.tell(of='nn/32x64x64', choice=[48, 2], ratio=1.21)\n"
        "voice.tell(of='tn/32x64x64', choice=None, ratio=1.0)\n"
        f"voice.tell({last})\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    monkeypatch.setattr(tune, "TRIAL", "searches")
    said: list[str] = []
    code = await tune.tune_devices("cpu", said.append)
    return code, [line.split() for line in said]


async def test_each_gain_is_said_and_the_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, lines = await told(tmp_path, monkeypatch, "end=True")
    assert code == 0
    assert ["nn/32x64x64", "48", "columns", "2", "items", "a", "unit", "1.21"] in lines
    assert [
        "ok",
        "1",
        "of",
        "2",
        "classes",
        "of",
        "shapes",
        "gain;",
        "in",
        "the",
        "mean",
        "1.100",
    ] in lines


async def test_a_search_that_cannot_be_kept_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, lines = await told(tmp_path, monkeypatch, "error='the disk is full'")
    assert code == 3
    assert ["fault", "the", "disk", "is", "full"] in lines
