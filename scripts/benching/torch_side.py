"""What PyTorch does, eager and compiled: convolutions, training steps."""

from __future__ import annotations

from itertools import product
from typing import Any

from benching.choosing import Way, counts, quickest
from benching.conversation import Conversation
from benching.frameworks import load
from benching.networks import (
    AGREE_AFTER,
    MINIBATCHES,
    RATE,
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
from paramserver.errors import NotReady

LAYOUTS = ("contiguous_format", "channels_last")
"""PyTorch's own names; which is quicker depends on the convolution."""


class Torch:
    """PyTorch, loaded: what it is, and how to go over to another way of working."""

    def __init__(self, *, compiled: bool = False) -> None:
        self.api = load("torch")
        self.compiled = compiled
        name = "torch.compile of torch" if compiled else "torch"
        capability = self.api.backends.cpu.get_cpu_capability()
        self.about = f"{name} {self.api.__version__}, {capability}"
        if compiled:
            self._try_compiler()

    def _try_compiler(self) -> None:
        # A pool of compilers would stay beside what is measured, and after it.
        load("torch._inductor.config").compile_threads = 1
        try:
            self.compile(lambda x: x.sin() + 1)(self.api.zeros(64))
        except Exception as error:  # it raises many kinds, among them those of the C++ compiler
            first = next(iter(str(error).splitlines()), "")
            raise NotReady(f"it cannot compile: {type(error).__name__}: {first}") from error

    def compile(self, function: Any) -> Any:
        """Return a function compiled for the shapes that it is called with."""
        return self.api.compile(function, dynamic=False)

    def take(self, way: Way) -> None:
        """Go over to a way; what was compiled for another is forgotten."""
        self.api.set_num_threads(way.threads)
        if self.compiled:
            self.api.compiler.reset()

    def layout(self, way: Way) -> Any:
        """Return the memory format of a way."""
        return getattr(self.api, way.layout)


def ways(cores: int, *, images: bool) -> list[Way]:
    """Return PyTorch's ways to work; of layouts there is a choice where there are images."""
    layouts = LAYOUTS if images else LAYOUTS[:1]
    return [Way(*way) for way in product(counts(cores), layouts)]


class Step(Looped):
    """Training steps by PyTorch: eager, or with forward, loss and backward compiled."""

    def __init__(self, torch: Torch, *, cores: int, quick: bool) -> None:
        self._torch = torch
        self._cores = cores
        self._quick = quick

    async def prepare(self, network: str, batch: int) -> Ready:
        """Make network and minibatches, and train."""
        model = model_of(network)
        loss = 0.0

        def ready(way: Way) -> Loop:
            nonlocal loss
            self._torch.take(way)
            step = self._step(model, batch, way)
            loss = [step(number) for number in range(AGREE_AFTER + 1)][-1]
            return Loop(step, MINIBATCHES, quick=self._quick)

        images = has_images(model)
        way, self.loop = quickest(ways(self._cores, images=images), ready)
        return Ready(loss, how=way.layout if images else "", threads=way.threads)

    def _step(self, model: Model, batch: int, way: Way) -> Any:
        torch = self._torch.api
        module = network_of(torch, model).to(memory_format=self._torch.layout(way))
        rule = torch.optim.SGD(module.parameters(), lr=RATE)
        shape = model.layers[0].inputs
        data = [
            (torch.from_numpy(x).reshape(batch, *shape), torch.from_numpy(y).long())
            for x, y in minibatches(model, batch)
        ]

        def loss_of(x: Any, y: Any) -> Any:
            return torch.nn.functional.cross_entropy(module(x), y)

        forward = self._torch.compile(loss_of) if self._torch.compiled else loss_of

        def step(number: int) -> float:
            rule.zero_grad()
            loss = forward(*data[number])
            loss.backward()
            rule.step()
            return float(loss.item())

        return step


class Convolve(Looped):
    """Convolutions by PyTorch: conv2d, and what autograd calls on the way back."""

    def __init__(self, torch: Torch, *, cores: int, quick: bool) -> None:
        self._torch = torch
        self._cores = cores
        self._quick = quick

    async def prepare(self, *, back: str | None = None, **given: Any) -> Ready:
        """Make the arrays, and run each set."""
        torch, problem = self._torch.api, Convolution(**given)
        padding = list(problem.window.padding)
        wanted = [back == "both", True, False]
        backward = torch.ops.aten.convolution_backward
        result = 0.0

        def ready(way: Way) -> Loop:
            nonlocal result
            self._torch.take(way)
            layout = self._torch.layout(way)
            sets = [
                [torch.from_numpy(array).contiguous(memory_format=layout) for array in arrays]
                for arrays in problem.sets
            ]

            def step(number: int) -> Any:
                x, w, delta = sets[number]
                if back is None:
                    return [torch.nn.functional.conv2d(x, w, padding=padding)]
                ones, zeros = [1, 1], [0, 0]
                return backward(delta, x, w, None, ones, padding, ones, False, zeros, 1, wanted)

            result = checksum(*(array.numpy() for array in step(0) if array is not None))
            return Loop(step, len(sets), quick=self._quick)

        way, self.loop = quickest(ways(self._cores, images=True), ready)
        return Ready(result, how=way.layout, threads=way.threads)


def network_of(torch: Any, model: Model) -> Any:
    """Return a model as a PyTorch module that begins with the same weights."""
    modules: list[Any] = []
    for layer in model.layers:
        if isinstance(layer, Dense):
            if len(layer.inputs) > 1:
                modules.append(torch.nn.Flatten())
            modules.append(torch.nn.Linear(*layer.fans))
        elif isinstance(layer, Conv2d):
            channels, filters = layer.inputs[0], layer.outputs[0]
            modules.append(torch.nn.Conv2d(channels, filters, layer.window.size))
        elif isinstance(layer, Pool2d):
            modules.append(torch.nn.MaxPool2d(layer.window.size))
        if layer.activation == "relu":
            modules.append(torch.nn.ReLU())
    network = torch.nn.Sequential(*modules)
    with torch.no_grad():
        for ours, theirs in zip(tensors_of(model), network.parameters(), strict=True):
            theirs.copy_(torch.from_numpy(ours.T if ours.ndim == 2 else ours))
    return network


async def convolve(conversation: Conversation) -> None:
    """Convolve as asked."""
    torch = Torch()
    await conversation.answer(torch.about, Convolve(torch, **_given(conversation)))


async def step(conversation: Conversation) -> None:
    """Train as asked, eager."""
    torch = Torch()
    await conversation.answer(torch.about, Step(torch, **_given(conversation)))


async def compiled_step(conversation: Conversation) -> None:
    """Train as asked, compiled."""
    torch = Torch(compiled=True)
    await conversation.answer(torch.about, Step(torch, **_given(conversation)))


def _given(conversation: Conversation) -> dict[str, Any]:
    settings = conversation.settings
    return {"cores": settings["threads"], "quick": settings["quick"]}
