"""Choices of the tuner change no bits, are kept on disk, and are searched for in bounded time."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from exchange import get, normal, put

from kernels import tuning
from kernels.cut import CLASSES, Choice
from kernels.device.device import OpenDevice
from kernels.engine import Form
from kernels.gemm import Gemm
from kernels.opencl import OpenCLEngine

pytestmark = pytest.mark.heavy

KEPT = {CLASSES[0]: Choice(32, 4), CLASSES[-1]: Choice(128, 1)}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def gemm(opencl: OpenCLEngine) -> Iterator[Gemm]:
    """The products of a device, whose choices are as before when the test is over."""
    gemm = opencl._gemm
    before = gemm.choices
    yield gemm
    gemm.choices = before


@pytest.fixture
def device(opencl: OpenCLEngine) -> OpenDevice:
    if not tuning.tunable(opencl.device):
        pytest.skip("the kernels for GPUs have one cut")
    return opencl.device


@pytest.mark.parametrize("form", ["nn", "tn", "nt"])
def test_a_choice_changes_no_bit(opencl: OpenCLEngine, gemm: Gemm, form: Form) -> None:
    m, n, k = 150, 170, 600
    a, b = normal(1, m, k), normal(2, k, n)
    left = put(opencl, a.T if form == "tn" else a)
    right, bias = put(opencl, b.T if form == "nt" else b), put(opencl, normal(3, n))
    results = []
    for columns, items in ((0, 0), (16, 16), (48, 3), (96, 1), (128, 1), (128, 8)):
        gemm.choices = dict.fromkeys(CLASSES, Choice(columns, items)) if items else {}
        out = opencl.empty((m, n))
        opencl.matmul(left, right, out, form=form, bias=bias, activation="tanh")
        results.append(get(opencl, out))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_what_was_found_is_kept_for_the_device(opencl: OpenCLEngine) -> None:
    assert tuning.load(opencl.device) is None
    path = tuning.save(opencl.device, KEPT)
    assert tuning.load(opencl.device) == KEPT
    tuning.save(opencl.device, {})
    assert tuning.load(opencl.device) == {}
    assert [path] == list(path.parent.iterdir())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"nn/32x64x64": 3}',
        '{"nn/32x64x64": [1]}',
        '{"nn/32x64x64": ["a", 1]}',
        '{"nn/1x1x1": [32, 1]}',
        "\N{GREEK SMALL LETTER ALPHA}",
    ],
)
def test_a_damaged_file_is_as_none(opencl: OpenCLEngine, text: str) -> None:
    tuning.path_of(opencl.device).write_bytes(text.encode("utf-16"))
    assert tuning.load(opencl.device) is None
    tuning.path_of(opencl.device).write_text(text, encoding="utf-8")
    assert tuning.load(opencl.device) is None


def test_a_search_ends_in_time_and_leaves_the_choices(device: OpenDevice, gemm: Gemm) -> None:
    gemm.choices = KEPT
    start = time.monotonic()
    found = list(tuning.search(device, gemm, tuning.QUICK_CHOICES, 0.2))
    assert time.monotonic() - start < 2
    assert [one.of for one in found] == list(CLASSES[: len(found)])
    assert len(found) < len(CLASSES)
    assert all(one.ratio >= tuning.BETTER if one.choice else one.ratio == 1 for one in found)
    assert gemm.choices is KEPT


def test_only_the_first_use_of_a_device_that_is_not_known_searches(
    device: OpenDevice, gemm: Gemm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "shipped", lambda _: False)
    monkeypatch.setattr(tuning, "SHORT", 0.1)
    tuning.prepare(device, gemm, first_use=False)
    assert not tuning.path_of(device).exists()
    tuning.prepare(device, gemm, first_use=True)
    assert tuning.load(device) == gemm.choices
    tuning.save(device, KEPT)
    monkeypatch.setattr(tuning, "search", None)
    tuning.prepare(device, gemm, first_use=True)
    assert gemm.choices == KEPT


def test_a_device_with_shipped_figures_is_not_searched(
    device: OpenDevice, gemm: Gemm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "shipped", lambda _: True)
    monkeypatch.setattr(tuning, "search", None)
    tuning.prepare(device, gemm, first_use=True)
    assert gemm.choices == {}
