"""Matrix products: the engine's against those of numpy's BLAS."""

from __future__ import annotations

import numpy as np

from benching import numpy_side
from benching.comparing import compare
from benching.conversation import Conversation
from benching.printing import Sheet
from benching.problems import checksum, factors
from benching.rivals import contest
from benching.rows import Case, Ready
from benching.suites import Settings, Suite
from benching.timing import Loop
from kernels.engine import Array, Engine, Form, Replay, open_engine

ROWS = (32, 128, 512)
LAYERS = (
    (64, 64),
    (784, 500),
    (784, 512),
    (512, 512),
    (784, 1000),
    (784, 2048),
    (2048, 2048),
)
"""(K, N) of the products."""
SQUARES = (256, 512, 1024, 2048)
FORMS: tuple[Form, ...] = ("nn", "tn", "nt")


def cases(quick: bool) -> list[Case]:
    """Return the products, named form/MxNxK."""
    if quick:
        return [_case("nn", 32, 64, 64), _case("tn", 32, 500, 784), _case("nt", 128, 512, 784)]
    products = [
        *((form, m, n, k) for form in FORMS for k, n in LAYERS for m in ROWS),
        *(("nn", size, size, size) for size in SQUARES),
    ]
    return [_case(*product) for product in dict.fromkeys(products)]


def _case(form: str, m: int, n: int, k: int) -> Case:
    given = {"form": form, "m": m, "n": n, "k": k}
    return Case(f"{form}/{m}x{n}x{k}", "GFLOP/s", 2e-9 * m * n * k, given)


async def run(settings: Settings, sheet: Sheet) -> None:
    """Measure every product on both sides."""
    async with contest("gemm", [], settings, sheet) as (ours, rivals):
        await compare(sheet, "gemm", cases(settings.quick), ours, rivals, settings.turns)


SUITE = Suite(
    "gemm",
    "float32 matrix products, against numpy's BLAS on as many threads as it is quickest on",
    (
        "packed each time; up to 16 sets of inputs in turn; one wait at the end (`with wait`: each)",
        "ours as a training step enqueues them: taken down once, replayed",
    ),
    run,
)


class Ours:
    """Products on our engine."""

    def __init__(self, engine: Engine, *, quick: bool) -> None:
        self._engine = engine
        self._quick = quick

    async def prepare(self, form: Form, m: int, n: int, k: int) -> Ready:
        """Bring the inputs to the device, and multiply each set once."""
        engine = self._engine
        sets: list[tuple[Array, Array, Array]] = []
        products: list[Replay] = []
        for a, b in factors(form, m, n, k):
            on_device = engine.empty(a.shape), engine.empty(b.shape), engine.empty((m, n))
            engine.upload(on_device[0], a)
            engine.upload(on_device[1], b)
            engine.wait()
            sets.append(on_device)
            with engine.recording() as product:
                engine.matmul(*on_device, form=form)
            products.append(product)

        def multiply(number: int) -> None:
            products[number]()

        self.loop = Loop(multiply, len(sets), quick=self._quick, finish=engine.wait)
        result = np.empty((m, n), np.float32)
        engine.download(sets[0][2], result)
        engine.wait()
        return Ready(checksum(result))

    async def measure(self) -> dict[str, float]:
        """Multiply with one wait at the end, then with one after each product."""
        return {
            "seconds": self.loop.seconds(),
            "with_wait": self.loop.seconds(wait_each=True),
        }


def threads(count: int) -> str:
    """Return a number of threads in words."""
    return f"{count} thread{'' if count == 1 else 's'}"


async def ours_side(conversation: Conversation) -> None:
    """Multiply on the engine as asked."""
    settings = conversation.settings
    engine = open_engine(settings["device"])
    about = f"{engine.info}, {threads(settings['threads'])}"
    await conversation.answer(about, Ours(engine, quick=settings["quick"]))


SIDES = {"ours": ours_side, "numpy": numpy_side.multiply}
