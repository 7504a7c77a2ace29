"""What numpy does: products, convolutions by the numpy twin, training steps as one writes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from benching.choosing import Way, counts, quickest
from benching.conversation import Conversation
from benching.networks import AGREE_AFTER, RATE, minibatches, model_of, tensors_of
from benching.problems import Convolution, checksum, factors
from benching.rows import Ready
from benching.timing import Loop, Looped
from kernels import reference


class Blas:
    """The BLAS that numpy multiplies with: what it is, and its number of threads."""

    def __init__(self) -> None:
        libraries = ThreadpoolController().select(user_api="blas").lib_controllers
        # Another package may have brought one of its own.
        self._library: Any = next(
            (one for one in libraries if "numpy" in one.filepath), next(iter(libraries), None)
        )
        self.about = f"numpy {np.__version__} with {self._words()}"

    def _words(self) -> str:
        if self._library is None:
            built: Any = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
            return f"{built['name']} {built['version']}"
        found = self._library.info()
        kernel = found.get("architecture")
        of = f" for {kernel}" if kernel else ""
        return f"{found['internal_api']} {found['version']}{of}"

    def ways(self, cores: int) -> list[Way]:
        """Return its ways to work: the numbers of threads, or its own where it cannot be told."""
        return [Way()] if self._library is None else [Way(count) for count in counts(cores)]

    def take(self, way: Way) -> None:
        """Go over to a way."""
        if way.threads is not None:
            self._library.set_num_threads(way.threads)


class NumpySide(Looped):
    """Something done by numpy, on as many threads as are quickest for the case."""

    def __init__(self, blas: Blas, *, cores: int, quick: bool) -> None:
        self._blas = blas
        self._cores = cores
        self._quick = quick

    def choose(self, run: Callable[[int], object], sets: int) -> Way:
        """Have the quickest way's loop of runs; return the way."""

        def ready(way: Way) -> Loop:
            self._blas.take(way)
            return Loop(run, sets, quick=self._quick)

        way, self.loop = quickest(self._blas.ways(self._cores), ready)
        return way


class Product(NumpySide):
    """Products."""

    async def prepare(self, form: str, m: int, n: int, k: int) -> Ready:
        """Make the factors, and multiply each set."""
        sets = [
            (a.T if form == "tn" else a, b.T if form == "nt" else b, np.empty((m, n), np.float32))
            for a, b in factors(form, m, n, k)
        ]

        def multiply(number: int) -> None:
            a, b, out = sets[number]
            np.matmul(a, b, out=out)

        way = self.choose(multiply, len(sets))
        return Ready(checksum(sets[0][2]), threads=way.threads)


class Convolve(NumpySide):
    """Convolutions by the numpy twin."""

    async def prepare(self, *, back: str | None = None, **given: Any) -> Ready:
        """Make the arrays, and run each set."""
        problem = Convolution(**given)
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

        way = self.choose(step, len(problem.sets))
        step(0)
        results = [out] if back is None else [by_w, by_x][: 1 + (back == "both")]
        return Ready(checksum(*results), threads=way.threads)


class Step(NumpySide):
    """Training steps of dense networks as one would write them in numpy."""

    async def prepare(self, network: str, batch: int) -> Ready:
        """Make network and minibatches, and train."""
        model = model_of(network)
        data, tensors = minibatches(model, batch), tensors_of(model)
        weights, biases = tensors[0::2], tensors[1::2]

        def step(number: int) -> float:
            x, y = data[number]
            values = [x]
            for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
                values.append(np.maximum(values[-1] @ weight + bias, 0))
            logits = values[-1] @ weights[-1] + biases[-1]
            logits -= logits.max(axis=1, keepdims=True)
            delta = np.exp(logits)
            sums = delta.sum(axis=1, keepdims=True)
            rows = np.arange(batch)
            loss = float(np.mean(np.log(sums[:, 0]) - logits[rows, y]))
            delta /= sums
            delta[rows, y] -= 1
            delta /= batch
            for index in range(len(weights) - 1, -1, -1):
                by_weight, by_bias = values[index].T @ delta, delta.sum(axis=0)
                if index:
                    delta = delta @ weights[index].T * (values[index] > 0)
                weights[index] -= RATE * by_weight
                biases[index] -= RATE * by_bias
            return loss

        losses = [step(number) for number in range(AGREE_AFTER + 1)]
        way = self.choose(step, len(data))
        return Ready(losses[-1], threads=way.threads)


async def multiply(conversation: Conversation) -> None:
    """Multiply as asked."""
    blas = Blas()
    await conversation.answer(blas.about, Product(blas, **_given(conversation)))


async def convolve(conversation: Conversation) -> None:
    """Convolve as asked."""
    blas = Blas()
    about = f"the numpy twin, {blas.about}"
    await conversation.answer(about, Convolve(blas, **_given(conversation)))


async def step(conversation: Conversation) -> None:
    """Train as asked."""
    blas = Blas()
    await conversation.answer(blas.about, Step(blas, **_given(conversation)))


def _given(conversation: Conversation) -> dict[str, Any]:
    settings = conversation.settings
    return {"cores": settings["threads"], "quick": settings["quick"]}
