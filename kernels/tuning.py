"""Find by measuring how products are cut best on a device, and keep that on disk.

A choice changes no bit of a result, see `kernels.cut`. It is kept for one device, driver, number of
compute units and text of the kernels; other processes that are at work meanwhile make it worse.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kernels.cut import CLASSES, Choice, ShapeClass
from kernels.device.build_lock import building, key_of
from kernels.device.cache import cache_folder
from kernels.device.device import Located, OpenDevice
from kernels.device.kernel import Replay
from kernels.device.thread_affinity import POCL
from kernels.errors import DeviceError
from kernels.gemm import Gemm, gemm_sources

FORMAT = 1
SHORT, LONG = 10.0, 90.0
"""Seconds that a search takes at most: on first use, and where a person asks for it."""
ROUND = 0.002
"""Seconds of one round of one choice."""
ROUNDS = 3
BETTER = 1.05
"""A choice must be so many times as fast as the model's cut, or that is kept."""

QUICK_CHOICES = tuple(Choice(columns, items) for columns in (32, 64, 128) for items in (1, 2, 4, 8))
ALL_CHOICES = tuple(
    Choice(columns, items)
    for columns in (16, 32, 48, 64, 96, 128)
    for items in (1, 2, 3, 4, 6, 8, 16)
)


@dataclass(frozen=True)
class Found:
    """What a search found for one class: ``ratio`` is the time by the model ÷ that by the choice.

    ``choice`` is None, and the ratio 1, where no choice was better.
    """

    of: ShapeClass
    choice: Choice | None
    ratio: float


def tunable(device: OpenDevice) -> bool:
    """Say whether there is something to choose: the tiles for GPUs have one cut."""
    return device.info.type == "cpu"


def shipped(device: OpenDevice) -> bool:
    """Say whether the model's figures were measured on such a device, which PoCL's is."""
    return device.info.platform == POCL


def path_of(device: OpenDevice) -> Path:
    """Return where a device's choices are kept. Raises DeviceError, see `cache_folder`."""
    info = device.info
    key = key_of(info, str(info.compute_units), str(FORMAT), *gemm_sources(device).values())
    return cache_folder() / f"{key}.tuned"


def load(device: OpenDevice) -> dict[ShapeClass, Choice] | None:
    """Return the choices kept for a device; None where there are none, or the file is damaged."""
    try:
        kept = json.loads(path_of(device).read_text(encoding="utf-8"))
        names = {str(of): of for of in CLASSES}
        choices = {names[name]: Choice(*numbers) for name, numbers in kept.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, DeviceError):
        return None
    whole = all(type(x) is int for one in choices.values() for x in (one.columns, one.items))
    return choices if whole else None


def save(device: OpenDevice, choices: Mapping[ShapeClass, Choice]) -> Path:
    """Keep the choices for a device, whole or not at all. Raises OSError, DeviceError."""
    path = path_of(device)
    kept = {str(of): [choice.columns, choice.items] for of, choice in choices.items()}
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
        try:
            json.dump(kept, file)
            file.close()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
    return path


def prepare(device: OpenDevice, gemm: Gemm, *, first_use: bool) -> None:
    """Have products cut as was found for the device.

    Where nothing was yet, ``first_use`` lets a short search go on now, but for devices that the
    model was measured on.
    """
    if not tunable(device):
        return
    kept = load(device)
    if kept is None and first_use and not shipped(device):
        # One process of a host searches: others at work would make it worse, so they wait for it.
        with building(device.info, ["search", *gemm_sources(device).values()]):
            kept = load(device)
            if kept is None:
                device.tell(
                    f"looking for the best cuts of products on device {device.info}: "
                    f"{SHORT:.0f} s at most, once (device.tune = false leaves it out)"
                )
                with suppress(OSError, DeviceError):  # it is then searched for again
                    kept = chosen(search(device, gemm, QUICK_CHOICES, SHORT))
                    save(device, kept)
    gemm.choices = kept or {}


def tune(device: OpenDevice, gemm: Gemm) -> Iterator[Found]:
    """Search long, yield what is found for each class, and then keep it.

    Raises:
        OSError, DeviceError: it cannot be kept.
    """
    if not tunable(device):
        return
    found = []
    for one in search(device, gemm, ALL_CHOICES, LONG):
        found.append(one)
        yield one
    gemm.choices = chosen(found)
    save(device, gemm.choices)


def chosen(found: Iterable[Found]) -> dict[ShapeClass, Choice]:
    """Return the choices that were better than the model's cuts."""
    return {one.of: one.choice for one in found if one.choice is not None}


def search(
    device: OpenDevice, gemm: Gemm, among: Sequence[Choice], seconds: float
) -> Iterator[Found]:
    """Yield what is found for each class, until all are measured or the time is over."""
    end = time.monotonic() + seconds
    m, n, k = (max(getattr(of, name) for of in CLASSES) for name in ("m", "n", "k"))
    arrays = [(device.buffer(4 * size), 0) for size in (m * k, n * k, m * n)]
    for buffer, _ in arrays[:2]:  # what lies there by chance may be slow to compute with
        device.copy_in(buffer, 0, np.full(buffer.size // 4, 0.5, np.float32))
    kept = gemm.choices
    try:
        for of in CLASSES:
            found = _search_class(device, gemm, of, arrays, among, end)
            if found is None:
                return
            yield found
    finally:
        gemm.choices = kept


def _search_class(
    device: OpenDevice,
    gemm: Gemm,
    of: ShapeClass,
    arrays: Sequence[Located],
    among: Sequence[Choice],
    end: float,
) -> Found | None:
    """Return what is found for a class, or None where the time is over first."""
    cuts = {gemm.cut_by(choice, of.form, of.m, of.n, of.k): choice for choice in (*among, None)}
    replays = [(choice, _replay(device, gemm, of, arrays, choice)) for choice in cuts.values()]
    once = min(_seconds(device, replay, 1) for _, replay in replays)
    count = max(1, round(ROUND / once))
    times: dict[Choice | None, list[float]] = {choice: [] for choice in cuts.values()}
    for _ in range(ROUNDS):
        for choice, replay in replays:
            times[choice].append(_seconds(device, replay, count))
            if time.monotonic() > end:
                return None
    best = min(times, key=lambda choice: min(times[choice]))
    if best is None:
        return Found(of, None, 1.0)
    # The quickest of many was also lucky: it meets the model's cut again.
    pair = [replay for choice, replay in replays if choice in (best, None)]
    mine = [choice for choice, _ in replays if choice in (best, None)]
    again: dict[Choice | None, list[float]] = {choice: [] for choice in mine}
    for _ in range(2 * ROUNDS + 1):
        for choice, replay in zip(mine, pair, strict=True):
            again[choice].append(_seconds(device, replay, count))
    ratio = statistics.median(again[None]) / statistics.median(again[best])
    return Found(of, best, ratio) if ratio >= BETTER else Found(of, None, 1.0)


def _replay(
    device: OpenDevice,
    gemm: Gemm,
    of: ShapeClass,
    arrays: Sequence[Located],
    choice: Choice | None,
) -> Replay:
    gemm.choices = {} if choice is None else {of: choice}
    with device.recording() as replay:
        gemm(*arrays, form=of.form, m=of.m, n=of.n, k=of.k)
    return replay


def _seconds(device: OpenDevice, replay: Replay, count: int) -> float:
    """Return the mean time of pipelined runs with one wait at the end."""
    start = time.perf_counter()
    for _ in range(count):
        replay()
    device.finish()
    return (time.perf_counter() - start) / count
