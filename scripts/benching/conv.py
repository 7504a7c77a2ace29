"""Convolutions, forward and backward: the engine's against frameworks', or the numpy twin's."""

from __future__ import annotations

from typing import Any

import numpy as np

from benching import jax_side, numpy_side, torch_side
from benching.comparing import compare
from benching.conversation import Conversation
from benching.gemm import threads
from benching.printing import Sheet
from benching.problems import Convolution, checksum
from benching.rivals import contest
from benching.rows import Case, Ready
from benching.suites import Settings, Suite
from benching.timing import Loop, Looped
from kernels.engine import Array, Engine, Replay, open_engine

RIVALS = ("torch", "jax")
"""What `torch.compile` makes of one convolution is the same call."""
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
    async with contest("conv", RIVALS, settings, sheet) as (ours, rivals):
        await compare(sheet, "conv", cases(settings.quick), ours, rivals, settings.turns)


SUITE = Suite(
    "conv",
    "convolutions forward and backward, against the quicker of PyTorch and JAX, or else numpy",
    ("backward gives the gradients by weights and input, of a first layer by weights alone",),
    run,
)


class Ours(Looped):
    """Convolutions on our engine, taken down once and replayed as a training step does."""

    def __init__(self, engine: Engine, *, quick: bool) -> None:
        self._engine = engine
        self._quick = quick

    async def prepare(self, *, back: str | None = None, **given: Any) -> Ready:
        """Bring the arrays to the device, and run each set once."""
        engine, problem = self._engine, Convolution(**given)
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


async def ours_side(conversation: Conversation) -> None:
    """Convolve on the engine as asked."""
    settings = conversation.settings
    engine = open_engine(settings["device"])
    about = f"{engine.info}, {threads(settings['threads'])}"
    await conversation.answer(about, Ours(engine, quick=settings["quick"]))


SIDES = {
    "ours": ours_side,
    "torch": torch_side.convolve,
    "jax": jax_side.convolve,
    "numpy": numpy_side.convolve,
}
