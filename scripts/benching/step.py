"""One training step: the learner and a fused rule against PyTorch, or plain numpy without it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from benching.comparing import compare
from benching.conversation import Conversation
from benching.gemm import blas, threads
from benching.printing import Sheet
from benching.processes import begun, side
from benching.rows import Case, Ready
from benching.suites import Settings, Suite
from benching.timing import Loop, Looped
from kernels.engine import Engine, open_engine
from kernels.rules import RuleRunner, RuleSpec, Update
from nodes.models import Model
from nodes.models.config import LayerConfig, ModelConfig
from nodes.models.layers import Conv2d, Dense, Pool2d
from nodes.training.learner import Learner
from paramserver.console import say
from paramserver.slices import aligned

Floats = npt.NDArray[np.float32]

DENSE = ((64, 64, 10), (784, 512, 512, 10), (784, 2048, 2048, 10))
LENET: tuple[dict[str, object], ...] = (
    {"type": "conv2d", "filters": 20, "kernel_size": 5, "activation": "identity"},
    {"type": "max_pool2d", "kernel_size": 2},
    {"type": "conv2d", "filters": 50, "kernel_size": 5, "activation": "identity"},
    {"type": "max_pool2d", "kernel_size": 2},
    {"units": 500},
    {},
)
"""LeNet 20/50 for images of 28 by 28 and 10 classes, as Deeplearning4j's example has it."""
BATCHES = (32, 128, 512)
MINIBATCHES = 8
RATE = 0.01
AGREE_AFTER = 3
"""After so many steps the sides' losses are compared."""


def cases(quick: bool) -> list[Case]:
    """Return the steps, named by network and minibatch."""
    names = ["-".join(map(str, widths)) for widths in DENSE] + ["lenet"]
    batches = BATCHES[:2] if quick else BATCHES
    return [
        Case(f"{name}/batch{batch}", "ms", given={"network": name, "batch": batch})
        for name in (names[:1] if quick else names)
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
    async with (
        side("step", "ours", settings, ours=True) as ours,
        side("step", against, settings, ours=False) as other,
    ):
        await begun(ours, other)
        sheet.note(f"ours: {ours.about}")
        sheet.note(f"other: {other.about}")
        steps = cases(settings.quick)
        if against == "numpy":
            steps = [case for case in steps if not case.name.startswith("lenet")]
        await compare(sheet, "step", steps, ours, {against: other}, settings.turns)


SUITE = Suite(
    "step",
    "one training step, forward, backward and update, against PyTorch eager on as many threads",
    ("forward, loss, backward, update by sgd; the minibatch comes from host memory",),
    run,
)


def model_of(network: str) -> Model:
    """Return a network by its name: LeNet, or widths with relu between its layers."""
    if network == "lenet":
        config = ModelConfig.model_validate({"layers": LENET})
        return Model(config, (28, 28), 10)
    inputs, *hidden, outputs = map(int, network.split("-"))
    layers = [*(LayerConfig(units=units, activation="relu") for units in hidden), LayerConfig()]
    return Model(ModelConfig(layers=tuple(layers), init="he"), (inputs,), outputs)


def minibatches(model: Model, batch: int) -> list[tuple[Floats, npt.NDArray[np.int32]]]:
    """Return minibatches, the same on both sides: inputs in [0, 1) and labels."""
    source = np.random.default_rng(1)
    return [
        (
            source.random((batch, model.inputs), np.float32),
            source.integers(0, model.outputs, batch, np.int32),
        )
        for _ in range(MINIBATCHES)
    ]


class Ours(Looped):
    """The learner computes a gradient, and the rule runner updates the weights with it."""

    def __init__(self, engine: Engine, *, quick: bool) -> None:
        self._engine = engine
        self._runner = RuleRunner(engine, RuleSpec("sgd"))
        self._quick = quick

    async def prepare(self, network: str, batch: int) -> Ready:
        """Make network and minibatches."""
        model, runner = model_of(network), self._runner
        data = minibatches(model, batch)
        learner = Learner(self._engine, model, batch)
        weights, gradient = aligned(model.size), aligned(model.size)
        weights[:] = model.initial_weights(1)

        def step(number: int) -> float:
            loss = learner.gradient(weights, *data[number], gradient).loss_sum
            runner.apply([Update(weights, weights, (), gradient, 1 / batch, RATE, 1)])
            return loss / batch

        losses = [step(number) for number in range(AGREE_AFTER + 1)]
        self.loop = Loop(step, len(data), quick=self._quick)
        return Ready(losses[-1])


class Torch(Looped):
    """The same by PyTorch, eager."""

    def __init__(self, torch: Any, *, quick: bool) -> None:
        self._torch = torch
        self._quick = quick

    async def prepare(self, network: str, batch: int) -> Ready:
        """Make network and minibatches."""
        torch = self._torch
        model = model_of(network)
        module = torch_network(torch, model)
        rule = torch.optim.SGD(module.parameters(), lr=RATE)
        shape = model.layers[0].inputs
        data = [
            (torch.from_numpy(x).reshape(batch, *shape), torch.from_numpy(y).long())
            for x, y in minibatches(model, batch)
        ]

        def step(number: int) -> float:
            x, y = data[number]
            rule.zero_grad()
            loss = torch.nn.functional.cross_entropy(module(x), y)
            loss.backward()
            rule.step()
            return float(loss.item())

        losses = [step(number) for number in range(AGREE_AFTER + 1)]
        self.loop = Loop(step, len(data), quick=self._quick)
        return Ready(losses[-1])


class Numpy(Looped):
    """The same as one would write it in numpy."""

    def __init__(self, *, quick: bool) -> None:
        self._quick = quick

    async def prepare(self, network: str, batch: int) -> Ready:
        """Make network and minibatches."""
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
        self.loop = Loop(step, len(data), quick=self._quick)
        return Ready(losses[-1])


def tensors_of(model: Model) -> list[Floats]:
    """Return the first weights of a model as arrays: weight [inputs, units], bias, and so on."""
    flat = model.initial_weights(1)
    return [
        flat[one.offset : one.offset + one.size].reshape(one.shape).copy() for one in model.layout
    ]


def torch_network(torch: Any, model: Model) -> Any:
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
