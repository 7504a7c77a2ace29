"""Run servers in the foreground until they are told to end."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Annotated

import typer

from paramserver.console import run_app
from paramserver.errors import NotReady
from zookeeping.jars import NoZooKeeper
from zookeeping.server import Ensemble, NotServing

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help="Run a real ZooKeeper on this machine, for trials: it keeps nothing unless told.")
def zookeeper(
    servers: Annotated[int, typer.Option(min=1, max=9, help="1, or an ensemble of 3 or more.")] = 1,
    port: Annotated[int, typer.Option(help="The first server's; 0: any free ones.")] = 2181,
    data: Annotated[Path | None, typer.Option(help="Keep the data here.")] = None,
    tick: Annotated[
        int, typer.Option(min=50, help="Milliseconds; a session lasts 2 to 20.")
    ] = 2000,
) -> None:
    """Start the servers, say when they serve, and wait for a signal."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        with contextlib.suppress(_Ended), contextlib.ExitStack() as stack:
            folder = data or Path(stack.enter_context(TemporaryDirectory(prefix="zookeeper-")))
            ensemble = stack.enter_context(Ensemble(folder, servers, port=port, tick=tick))
            print(ensemble.address, flush=True)
            print("serving until Ctrl-C", file=sys.stderr)
            while all(server.runs() for server in ensemble.servers):
                time.sleep(1.0)
            raise NotServing(f"a server has ended: see the log in {folder}")
    except (NoZooKeeper, NotServing) as error:
        raise NotReady(str(error)) from error


class _Ended(BaseException):
    """A signal asks for the end."""


def _end(_number: int, _frame: FrameType | None) -> None:
    raise _Ended


if __name__ == "__main__":
    run_app(app, "zookeeper")
