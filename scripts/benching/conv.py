"""Convolutions, forward and backward: the engine's against PyTorch's, or the numpy twin's."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from benching.comparing import compare
from benching.conversation import Conversation
from benching.gemm import blas, threads
from benching.printing import Sheet
from benching.processes import begun, side
from benching.rows import Case, Ready
from benching.step import has_torch, load_torch
from benching.suites import Settings, Suite
from benching.timing import Loop, Looped, sets_for
from kernels import reference
from kernels.engine import Array, Engine, Replay, open_engine
from kernels.windows import Window

Floats = npt.NDArray[np.float32]

BATCHES = (32, 128)
LAYERS: dict[str, dict[str, Any]] = {
    "lenet1-1x28x28-20x5x5": {"x": (1, 28, 28), "filters": 20, "size": 5, "padding": 0},
    "lenet2-20x12x12-50x5x5": {"x": (20, 12, 12), "filters": 50, "size": 5, "padding": 0},
    "64x32x32-64x3x3": {"x": (64, 32, 32), "filters": 64, "size": 3, "padding": 1},
}


def cases(quick: bool) -> list[Case]:
    """Return the convolutions; the way back of a first layer gives no gradient by its input."""
    found = []
    for name, layer in list(LAYERS.items())[: 1 if quick else None]:
        (channels, *plane), size, filters = layer["x"], layer["size"], layer["filters"]
        places = [side + 2 * layer["padding"] - size + 1 for side in plane]
        work = 2e-9 * filters * channels * size * size * places[0] * places[1]
        first = name.startswith("lenet1")
        for batch in BATCHES:
            given = {**layer, "batch": batch}
            ways = 1 if first else 2
            found += [
                Case(f"forward/{name}/batch{batch}", "GFLOP/s", work * batch, given),
                Case(
                    f"backward/{name}/batch{batch}",
                    "GFLOP/s",
                    work * batch * ways,
                    {**given, "back": "weights" if first else "both"},
                ),
            ]
    return found


async def run(settings: Settings, sheet: Sheet) -> None:
    """Measure every convolution on both sides."""
    against = "torch" if has_torch() else "numpy"
    async with (
        side("conv", "ours", settings, ours=True) as ours,
        side("conv", against, settings, ours=False) as other,
    ):
        await begun(ours, other)
        sheet.note(f"ours: {ours.about}")
        sheet.note(f"other: {other.about}")
        await compare(sheet, "conv", cases(settings.quick), ours, {against: other}, settings.turns)


SUITE = Suite(
    "conv",
    "convolutions forward and backward, against PyTorch's conv2d on as many threads",
    ("backward gives the gradients by weights and input, of a first layer by weights alone",),
    run,
)


class Problem:
    """The arrays of one case, the same on both sides."""

    def __init__(
        self, x: tuple[int, int, int], filters: int, size: int, padding: int, batch: int
    ) -> None:
        source = np.random.default_rng(1)
        self.window = Window((size, size), padding=(padding, padding))
        self.out = (batch, filters, *self.window.over((x[1], x[2])))
        self.sets: list[tuple[Floats, Floats, Floats]] = []
        for _ in range(sets_for(4 * batch * int(np.prod(x)) + 4 * int(np.prod(self.out)))):
            arrays = [
                source.random(shape, np.float32) - np.float32(0.5)
                for shape in ((batch, *x), (filters, x[0], size, size), self.out)
            ]
            self.sets.append((arrays[0], arrays[1], arrays[2]))


def checksum(*arrays: npt.NDArray[Any]) -> float:
    """Return a number by which results are compared."""
    return sum(float(np.abs(array).sum(dtype=np.float64)) for array in arrays)


class Ours(Looped):
    """Convolutions on our engine, taken down once and replayed as a training step does."""

    def __init__(self, engine: Engine, *, quick: bool) -> None:
        self._engine = engine
        self._quick = quick

    async def prepare(self, *, back: str | None = None, **given: Any) -> Ready:
        """Bring the arrays to the device, and run each set once."""
        engine, problem = self._engine, Problem(**given)
        steps: list[Replay] = []
        results: list[list[Array]] = []
        for host in problem.sets:
            x, w, delta = (engine.empty(array.shape) for array in host)
            out, by_x, by_w = (engine.empty(s) for s in (problem.out, x.shape, w.shape))
            for there, given_array in zip((x, w, delta), host, strict=True):
                engine.upload(there, given_array)
            engine.wait()
            with engine.recording() as step:
                if back is None:
                    engine.convolve(x, w, out, problem.window)
                else:
                    engine.convolve_weights(x, delta, by_w, problem.window)
                if back == "both":
                    engine.convolve_input(delta, w, by_x, problem.window)
            steps.append(step)
            results.append([out] if back is None else [by_w, by_x][: 1 + (back == "both")])
        self.loop = Loop(
            lambda number: steps[number](), len(steps), quick=self._quick, finish=engine.wait
        )
        found = [np.empty(array.shape, np.float32) for array in results[0]]
        for there, to in zip(results[0], found, strict=True):
            engine.download(there, to)
        engine.wait()
        return Ready(checksum(*found))


class Torch(Looped):
    """The same by PyTorch: conv2d, and what autograd calls on the way back."""

    def __init__(self, torch: Any, *, quick: bool) -> None:
        self._torch = torch
        self._quick = quick

    async def prepare(self, *, back: str | None = None, **given: Any) -> Ready:
        """Make the arrays, and run each set once."""
        torch, problem = self._torch, Problem(**given)
        sets = [[torch.from_numpy(array) for array in arrays] for arrays in problem.sets]
        padding = list(problem.window.padding)
        wanted = [back == "both", True, False]
        backward = torch.ops.aten.convolution_backward

        def step(number: int) -> Any:
            x, w, delta = sets[number]
            if back is None:
                return [torch.nn.functional.conv2d(x, w, padding=padding)]
            ones, zeros = [1, 1], [0, 0]
            return backward(delta, x, w, None, ones, padding, ones, False, zeros, 1, wanted)

        self.loop = Loop(step, len(sets), quick=self._quick)
        return Ready(checksum(*(array.numpy() for array in step(0) if array is not None)))


class Numpy(Looped):
    """The same by the numpy twin."""

    def __init__(self, *, quick: bool) -> None:
        self._quick = quick

    async def prepare(self, *, back: str | None = None, **given: Any) -> Ready:
        """Make the arrays, and run each set once."""
        problem = Problem(**given)
        x, w, _ = problem.sets[0]
        out, by_x, by_w = np.empty(problem.out, np.float32), np.empty_like(x), np.empty_like(w)

        def step(number: int) -> None:
            x, w, delta = problem.sets[number]
            if back is None:
                reference.convolve(x, w, out, problem.window)
            else:
                reference.convolve_weights(x, delta, by_w, problem.window)
            if back == "both":
                reference.convolve_input(delta, w, by_x, problem.window)

        self.loop = Loop(step, len(problem.sets), quick=self._quick)
        step(0)
        return Ready(checksum(*([out] if back is None else [by_w, by_x][: 1 + (back == "both")])))


async def ours_side(conversation: Conversation) -> None:
    """Convolve on the engine as asked."""
    settings = conversation.settings
    engine = open_engine(settings["device"])
    about = f"{engine.info}, {threads(settings['threads'])}"
    await conversation.answer(about, Ours(engine, quick=settings["quick"]))


async def torch_side(conversation: Conversation) -> None:
    """Convolve by PyTorch as asked."""
    settings = conversation.settings
    torch = load_torch(settings["threads"])
    about = f"torch {torch.__version__}, {threads(settings['threads'])}"
    await conversation.answer(about, Torch(torch, quick=settings["quick"]))


async def numpy_side(conversation: Conversation) -> None:
    """Convolve by numpy as asked."""
    settings = conversation.settings
    about = f"the numpy twin, {blas()}, {threads(settings['threads'])}"
    await conversation.answer(about, Numpy(quick=settings["quick"]))


SIDES = {"ours": ours_side, "torch": torch_side, "numpy": numpy_side}
