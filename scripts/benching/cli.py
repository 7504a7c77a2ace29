"""The command line of ``scripts/bench``."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Annotated

import typer

from benching import checkpoint, conv, gemm, latency, rules, start, step, train, wire
from benching.busy import BUSY, busy_share
from benching.machine import cpu_name
from benching.printing import Sheet
from benching.suites import Settings, Suite
from paramserver.console import Signals, run_app, run_loop
from paramserver.errors import UserError

SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        gemm.SUITE,
        conv.SUITE,
        step.SUITE,
        rules.SUITE,
        wire.SUITE,
        latency.SUITE,
        train.SUITE,
        checkpoint.SUITE,
        start.SUITE,
    )
}
ALL = "all"
USAGE = "\n".join(
    [
        "usage: scripts/bench SUITE… [--json] [--quick] [--device cpu]",
        *(f"  {suite.name:10} {suite.times}" for suite in SUITES.values()),
        f"  {ALL:10} all of these",
    ]
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help="Compare this system with others, side by side on this machine's cores.")
def bench(
    suites: Annotated[
        list[str] | None,
        typer.Argument(metavar="SUITE…", help=f"{', '.join(SUITES)}; or {ALL}."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few and short cases: to see that it works.")
    ] = False,
    device: Annotated[
        str, typer.Option(help="Our side's device: cpu, gpu, an index, a name, numpy.")
    ] = "cpu",
) -> None:
    """Run the suites named, in their order."""
    if not suites:
        print(USAGE)
        raise typer.Exit(UserError.exit_code)
    wanted = list(SUITES) if ALL in suites else list(dict.fromkeys(suites))
    for name in wanted:
        if name not in SUITES:
            raise UserError(f"unknown suite {name!r}: use {', '.join(SUITES)} or {ALL}")
    cores = tuple(sorted(os.sched_getaffinity(0)))
    settings = Settings(device=device, cores=cores, quick=quick)
    sheet = Sheet(sys.stdout, as_json=json)
    run_loop(run_suites([SUITES[name] for name in wanted], settings, sheet)).reraise()


async def run_suites(suites: list[Suite], settings: Settings, sheet: Sheet) -> Signals:
    """Run suites one after another; a signal ends them, and every process, in good order."""
    me = asyncio.current_task()
    assert me is not None

    def stop(_: str) -> None:
        me.cancel()

    signals = Signals(stop)
    signals.install()
    try:
        for suite in suites:
            busy = await busy_share(settings.cores)
            with sheet.open(suite.name, suite.times):
                cores = ", ".join(map(str, settings.cores))
                sheet.note(f"processor: {cpu_name()}, cores {cores}")
                for line in suite.how:
                    sheet.note(line)
                if busy > BUSY:
                    sheet.note(
                        f"NOT IDLE: other processes take {busy:.0%} of these cores: do not trust "
                        "these figures"
                    )
                await suite.run(settings, sheet)
    except asyncio.CancelledError:
        if signals.got is None:
            raise
    return signals


def main() -> None:
    """Run the command."""
    run_app(app, "bench")
