"""Play every scenario with plain aiozk and with this project's session, and say what became of them."""

from __future__ import annotations

import asyncio
import logging
import sys
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from zookeeping.jars import NoZooKeeper
from zookeeping.server import Ensemble, NotServing

from faulting.clients import Ours, Plain
from faulting.scenarios import SCENARIOS, play
from paramserver.console import run_app
from paramserver.errors import NotReady, UserError

TICK = 200

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(
    help="Show what faults on the way to ZooKeeper do to plain aiozk, and to this project."
)
def faults(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[FAULT]…", help="These alone; else all.")
    ] = None,
) -> None:
    """Print each fault with both outcomes; fail where this project's session did wrong."""
    there = {scenario.__name__.replace("_", "-"): scenario for scenario in SCENARIOS}
    for name in names or ():
        if name not in there:
            raise UserError(f"no fault {name!r}: there are {', '.join(there)}")
    logging.disable(logging.CRITICAL)  # aiozk logs what this is about to tell
    wrong = 0
    try:
        with TemporaryDirectory(prefix="faults-") as folder:
            place = Path(folder)
            with Ensemble(place / "zookeeper", 1, tick=TICK) as ensemble:
                for name in names or there:
                    scenario = there[name]
                    print(f"{name}: {(scenario.__doc__ or '').splitlines()[0]}")
                    for kind, make in ((f"aiozk {version('aiozk')}", Plain), ("paramserver", Ours)):
                        found = asyncio.run(play(scenario, ensemble.address, make, place))
                        wrong += make is Ours and found is not None
                        print(f"  {kind:13} {found or 'did well'}", flush=True)
    except (NoZooKeeper, NotServing) as error:
        raise NotReady(str(error)) from error
    if wrong:
        sys.exit(1)


if __name__ == "__main__":
    run_app(app, "aiozk-faults")
