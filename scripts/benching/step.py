"""One training step: the learner and a fused rule against PyTorch, or plain numpy without it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from benching.comparing import compare
from benching.conversation import Conversation
from benching.gemm import blas, threads
from benching.printing import Sheet
from benching.processes import begun, side
from benching.rows import Case
from benching.suites import Settings, Suite
from benching.timing import Loop, Looped
from kernels.engine import Engine, open_engine
from kernels.rules import RuleRunner, RuleSpec, Update
from nodes.models import Model
from nodes.models.config import LayerConfig, ModelConfig
from nodes.training.learner import Learner
from paramserver.console import say
from paramserver.slices import aligned

Floats = npt.NDArray[np.float32]

NETWORKS = ((64, 64, 10), (784, 512, 512, 10), (784, 2048, 2048, 10))
BATCHES = (32, 128, 512)
MINIBATCHES = 8
RATE = 0.01
AGREE_AFTER = 3
"""After so many steps the sides' losses are compared."""


def cases(quick: bool) -> list[Case]:
    """Return the steps, named by widths and minibatch."""
    networks = NETWORKS[:1] if quick else NETWORKS
    batches = BATCHES[:2] if quick else BATCHES
    return [
        Case(
            f"{'-'.join(str(width) for width in widths)}/batch{batch}",
            "ms",
            given={"widths": widths, "batch": batch},
        )
        for widths in networks
        for batch in batches
    ]


def has_torch() -> bool:
    """Say whether PyTorch is installed; where it is not, say how to get it."""
    if importlib.util.find_spec("torch") is not None:
        return True
    say(
        "bench: PyTorch is not installed here, so another is compared with; to compare with it: "
        f"{sys.executable} -m pip install torch"
    )
    return False


async def run(settings: Settings, sheet: Sheet) -> None:
    """Measure every step on both sides."""
    against = "torch" if has_torch() else "numpy"
    async with side("step", "ours", settings) as ours, side("step", against, settings) as other:
        await begun(ours, other)
        sheet.note(f"ours: {ours.about}")
        sheet.note(f"other: {other.about}")
        steps = cases(settings.quick)
        await compare(sheet, "step", steps, ours, other, against, settings.turns)


SUITE = Suite(
    "step",
    "one training step of a dense network, against PyTorch eager on as many threads",
    ("forward, loss, backward, update by sgd; the minibatch comes from host memory",),
    run,
)


def model_of(widths: Sequence[int]) -> Model:
    """Return the network with these widths, relu between its layers."""
    hidden = [LayerConfig(units=units, activation="relu") for units in widths[1:-1]]
    config = ModelConfig(layers=(*hidden, LayerConfig()), init="he")
    return Model(config, widths[0], widths[-1])


def minibatches(widths: Sequence[int], batch: int) -> list[tuple[Floats, npt.NDArray[np.int32]]]:
    """Return minibatches, the same on both sides: inputs in [0, 1) and labels."""
    source = np.random.default_rng(1)
    return [
        (
            source.random((batch, widths[0]), np.float32),
            source.integers(0, widths[-1], batch, np.int32),
        )
        for _ in range(MINIBATCHES)
    ]


class Ours(Looped):
    """The learner computes a gradient, and the rule runner updates the weights with it."""

    def __init__(self, engine: Engine, *, quick: bool) -> None:
        self._engine = engine
        self._runner = RuleRunner(engine, RuleSpec("sgd"))
        self._quick = quick

    async def prepare(self, widths: Sequence[int], batch: int) -> float:
        """Make network and minibatches."""
        model, data, runner = model_of(widths), minibatches(widths, batch), self._runner
        learner = Learner(self._engine, model, batch)
        weights, gradient = aligned(model.size), aligned(model.size)
        weights[:] = model.initial_weights(1)

        def step(number: int) -> float:
            loss = learner.gradient(weights, *data[number], gradient).loss_sum
            runner.apply([Update(weights, weights, (), gradient, 1 / batch, RATE, 1)])
            return loss / batch

        losses = [step(number) for number in range(AGREE_AFTER + 1)]
        self.loop = Loop(step, len(data), quick=self._quick)
        return losses[-1]


class Torch(Looped):
    """The same by PyTorch, eager."""

    def __init__(self, torch: Any, *, quick: bool) -> None:
        self._torch = torch
        self._quick = quick

    async def prepare(self, widths: Sequence[int], batch: int) -> float:
        """Make network and minibatches."""
        torch = self._torch
        network = torch_network(torch, model_of(widths))
        rule = torch.optim.SGD(network.parameters(), lr=RATE)
        data = [
            (torch.from_numpy(x), torch.from_numpy(y).long()) for x, y in minibatches(widths, batch)
        ]

        def step(number: int) -> float:
            x, y = data[number]
            rule.zero_grad()
            loss = torch.nn.functional.cross_entropy(network(x), y)
            loss.backward()
            rule.step()
            return float(loss.item())

        losses = [step(number) for number in range(AGREE_AFTER + 1)]
        self.loop = Loop(step, len(data), quick=self._quick)
        return losses[-1]


class Numpy(Looped):
    """The same as one would write it in numpy."""

    def __init__(self, *, quick: bool) -> None:
        self._quick = quick

    async def prepare(self, widths: Sequence[int], batch: int) -> float:
        """Make network and minibatches."""
        data = minibatches(widths, batch)
        tensors = tensors_of(model_of(widths))
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
        self.loop = Loop(step, len(data), quick=self._quick)
        return losses[-1]


def tensors_of(model: Model) -> list[Floats]:
    """Return the first weights of a model as arrays: weight [inputs, units], bias, and so on."""
    flat = model.initial_weights(1)
    return [
        flat[one.offset : one.offset + one.size].reshape(one.shape).copy() for one in model.layout
    ]


def torch_network(torch: Any, model: Model) -> Any:
    """Return a model as a PyTorch module that begins with the same weights."""
    layers: list[Any] = []
    for layer in model.layers:
        layers += [torch.nn.Linear(layer.inputs, layer.units), torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers[:-1])
    with torch.no_grad():
        for ours, theirs in zip(tensors_of(model), network.parameters(), strict=True):
            theirs.copy_(torch.from_numpy(ours.T))
    return network


def load_torch(count: int) -> Any:
    """Import PyTorch and give it a number of threads.

    Its types are not looked at, since whether it is installed must not matter to a type checker.
    """
    torch = importlib.import_module("torch")
    torch.set_num_threads(count)
    return torch


async def ours_side(conversation: Conversation) -> None:
    """Train on the engine as asked."""
    settings = conversation.settings
    engine = open_engine(settings["device"])
    about = f"{engine.info}, {threads(settings['threads'])}"
    await conversation.answer(about, Ours(engine, quick=settings["quick"]))


async def torch_side(conversation: Conversation) -> None:
    """Train by PyTorch as asked."""
    settings = conversation.settings
    torch = load_torch(settings["threads"])
    about = f"torch {torch.__version__}, {threads(settings['threads'])}"
    await conversation.answer(about, Torch(torch, quick=settings["quick"]))


async def numpy_side(conversation: Conversation) -> None:
    """Train by numpy as asked."""
    settings = conversation.settings
    about = f"{blas()}, {threads(settings['threads'])}"
    await conversation.answer(about, Numpy(quick=settings["quick"]))


SIDES = {"ours": ours_side, "torch": torch_side, "numpy": numpy_side}
