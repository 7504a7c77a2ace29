"""What JAX does, jitted, on as many threads as XLA takes: convolutions, training steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from benching.choosing import Way, quickest
from benching.conversation import Conversation
from benching.frameworks import load
from benching.networks import (
    AGREE_AFTER,
    MINIBATCHES,
    RATE,
    Floats,
    has_images,
    minibatches,
    model_of,
    tensors_of,
)
from benching.problems import Convolution, checksum
from benching.rows import Ready
from benching.timing import Loop, Looped
from nodes.models import Model
from nodes.models.layers import Conv2d, Dense, Pool2d

FILTERS = {"NCHW": "OIHW", "NHWC": "HWIO"}
"""Layouts of images, and of the filters that go with them; XLA is not as quick in each."""


class Jax:
    """JAX, loaded for the CPU."""

    def __init__(self) -> None:
        self.api = load("jax")
        self.api.config.update("jax_platforms", "cpu")
        self.about = f"jax {self.api.__version__}, jitted, on XLA's own threads"

    def convolve(self, x: Any, w: Any, layout: str, padding: tuple[int, int]) -> Any:
        """Convolve images of a layout with filters of the layout that goes with it."""
        return self.api.lax.conv_general_dilated(
            x,
            w,
            window_strides=(1, 1),
            padding=[(side, side) for side in padding],
            dimension_numbers=(layout, FILTERS[layout], layout),
        )


def laid_out(images: Floats, layout: str) -> Floats:
    """Return images [N, C, H, W] in a layout."""
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1)) if layout == "NHWC" else images


def filters_laid_out(filters: Floats, layout: str) -> Floats:
    """Return filters [O, I, H, W] in the layout that goes with that of images."""
    return np.ascontiguousarray(filters.transpose(2, 3, 1, 0)) if layout == "NHWC" else filters


class Step(Looped):
    """Training steps by JAX: one jitted function gives loss and new weights in the old ones' place."""

    def __init__(self, jax: Jax, *, quick: bool) -> None:
        self._jax = jax
        self._quick = quick

    async def prepare(self, network: str, batch: int) -> Ready:
        """Make network and minibatches, and train."""
        model = model_of(network)
        loss = 0.0

        def ready(way: Way) -> Loop:
            nonlocal loss
            step = self._step(model, batch, way.layout)
            loss = [step(number) for number in range(AGREE_AFTER + 1)][-1]
            return Loop(step, MINIBATCHES, quick=self._quick)

        layouts = list(FILTERS) if has_images(model) else [""]
        way, self.loop = quickest([Way(layout=layout) for layout in layouts], ready)
        return Ready(loss, how=way.layout)

    def _step(self, model: Model, batch: int, layout: str) -> Any:
        jax = self._jax.api
        shape = model.layers[0].inputs
        data = [(x.reshape(batch, *shape), y) for x, y in minibatches(model, batch)]
        weights = [
            jax.numpy.asarray(filters_laid_out(one, layout) if one.ndim == 4 else one)
            for one in tensors_of(model)
        ]

        def loss_of(weights: Any, x: Any, y: Any) -> Any:
            shares = jax.nn.log_softmax(self._outputs(model, layout, weights, x))
            return -jax.numpy.take_along_axis(shares, y[:, None], axis=1).mean()

        def update(weights: Any, x: Any, y: Any) -> Any:
            loss, gradients = jax.value_and_grad(loss_of)(weights, x, y)
            return [w - RATE * by for w, by in zip(weights, gradients, strict=True)], loss

        jitted = jax.jit(update, donate_argnums=0)

        def step(number: int) -> float:
            nonlocal weights
            weights, loss = jitted(weights, *data[number])
            return float(loss)

        return step

    def _outputs(self, model: Model, layout: str, weights: Any, x: Any) -> Any:
        """Return what the network's last layer gives, before the softmax."""
        left = iter(weights)
        if layout == "NHWC":
            x = x.transpose(0, 2, 3, 1)
        for layer in model.layers:
            if isinstance(layer, Dense):
                if x.ndim > 2:  # weights are for channels first
                    x = x.transpose(0, 3, 1, 2) if layout == "NHWC" else x
                    x = x.reshape(len(x), -1)
                x = x @ next(left) + next(left)
            elif isinstance(layer, Conv2d):
                x = self._jax.convolve(x, next(left), layout, layer.window.padding)
                bias = next(left)
                x = x + (bias if layout == "NHWC" else bias[:, None, None])
            elif isinstance(layer, Pool2d):
                x = pooled(x, layout, layer.window.size)
            if layer.activation == "relu":
                x = self._jax.api.nn.relu(x)
        return x


def pooled(x: Any, layout: str, size: tuple[int, int]) -> Any:
    """Return the largest of each window of a size, which divides the image.

    XLA's gradient of `reduce_window` is slower on CPUs.
    """
    rows, columns = size
    if layout == "NHWC":
        n, h, w, c = x.shape
        return x.reshape(n, h // rows, rows, w // columns, columns, c).max((2, 4))
    n, c, h, w = x.shape
    return x.reshape(n, c, h // rows, rows, w // columns, columns).max((3, 5))


class Convolve(Looped):
    """Convolutions by JAX, and their gradients."""

    def __init__(self, jax: Jax, *, quick: bool) -> None:
        self._jax = jax
        self._quick = quick

    async def prepare(self, *, back: str | None = None, **given: Any) -> Ready:
        """Make the arrays, and run each set."""
        problem = Convolution(**given)
        result = 0.0

        def ready(way: Way) -> Loop:
            nonlocal result
            loop, found = self._loop(problem, back, way.layout)
            result = checksum(*(np.asarray(array) for array in found))
            return loop

        way, self.loop = quickest([Way(layout=layout) for layout in FILTERS], ready)
        return Ready(result, how=way.layout)

    def _loop(self, problem: Convolution, back: str | None, layout: str) -> tuple[Loop, Any]:
        """Return the loop of a layout, and the results of the first set."""
        jax, padding = self._jax.api, problem.window.padding

        def forward(x: Any, w: Any) -> Any:
            return self._jax.convolve(x, w, layout, padding)

        def run(x: Any, w: Any, delta: Any) -> Any:
            if back is None:
                return [forward(x, w)]
            if back == "both":
                return jax.vjp(forward, x, w)[1](delta)
            return jax.vjp(lambda w: forward(x, w), w)[1](delta)

        sets = [
            [
                jax.numpy.asarray(laid_out(x, layout)),
                jax.numpy.asarray(filters_laid_out(w, layout)),
                jax.numpy.asarray(laid_out(delta, layout)),
            ]
            for x, w, delta in problem.sets
        ]
        jitted = jax.jit(run)
        results: list[Any] = [None] * len(sets)

        def step(number: int) -> None:
            results[number] = jitted(*sets[number])

        def finish() -> None:
            jax.block_until_ready(results)

        loop = Loop(step, len(sets), quick=self._quick, finish=finish)
        return loop, results[0]


async def convolve(conversation: Conversation) -> None:
    """Convolve as asked."""
    jax = Jax()
    await conversation.answer(jax.about, Convolve(jax, quick=conversation.settings["quick"]))


async def step(conversation: Conversation) -> None:
    """Train as asked."""
    jax = Jax()
    await conversation.answer(jax.about, Step(jax, quick=conversation.settings["quick"]))
