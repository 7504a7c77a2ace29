"""One training step: the learner and a fused rule against frameworks, or plain numpy."""

from __future__ import annotations

from benching import jax_side, numpy_side, torch_side
from benching.comparing import compare
from benching.conversation import Conversation
from benching.gemm import threads
from benching.networks import AGREE_AFTER, RATE, minibatches, model_of
from benching.printing import Sheet
from benching.rivals import FALLBACK, contest
from benching.rows import Case, Ready
from benching.suites import Settings, Suite
from benching.timing import Loop, Looped
from kernels.engine import Engine, open_engine
from kernels.rules import RuleRunner, RuleSpec, Update
from nodes.training.learner import Learner
from paramserver.slices import aligned

DENSE = ((64, 64, 10), (784, 512, 512, 10), (784, 2048, 2048, 10))
BATCHES = (32, 128, 512)
RIVALS = ("torch", "torch.compile", "jax")


def cases(quick: bool) -> list[Case]:
    """Return the steps, named by network and minibatch."""
    names = ["-".join(map(str, widths)) for widths in DENSE] + ["lenet"]
    batches = BATCHES[:2] if quick else BATCHES
    return [
        Case(f"{name}/batch{batch}", "ms", given={"network": name, "batch": batch})
        for name in (names[:1] if quick else names)
        for batch in batches
    ]


async def run(settings: Settings, sheet: Sheet) -> None:
    """Measure every step on both sides."""
    async with contest("step", RIVALS, settings, sheet) as (ours, rivals):
        steps = cases(settings.quick)
        if FALLBACK in rivals:
            steps = [case for case in steps if not case.name.startswith("lenet")]
        await compare(sheet, "step", steps, ours, rivals, settings.turns)


SUITE = Suite(
    "step",
    "one training step against the quickest of PyTorch, torch.compile and JAX, or else numpy",
    ("forward, loss, backward, update by sgd; the minibatch comes from host memory",),
    run,
)


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


async def ours_side(conversation: Conversation) -> None:
    """Train on the engine as asked."""
    settings = conversation.settings
    engine = open_engine(settings["device"])
    about = f"{engine.info}, {threads(settings['threads'])}"
    await conversation.answer(about, Ours(engine, quick=settings["quick"]))


SIDES = {
    "ours": ours_side,
    "torch": torch_side.step,
    "torch.compile": torch_side.compiled_step,
    "jax": jax_side.step,
    "numpy": numpy_side.step,
}
