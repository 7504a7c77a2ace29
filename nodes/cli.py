"""The command ``node``: train a recipe, or compute for a cluster."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from kernels.device import choose
from kernels.engine import open_engine
from kernels.errors import KernelError
from nodes.data import load_dataset
from nodes.models import Model
from nodes.recipe import Recipe, load_recipe
from nodes.training.driver import Driver, Plan, name_run
from nodes.training.joined import train_joined
from nodes.training.local import train_locally
from nodes.training.progress import ProgressLines
from nodes.training.result import MODEL_FILE, Result
from nodes.training.role import WorkerRole
from paramserver.cli import (
    ConfigFile,
    Join,
    Lifeline,
    Name,
    Sets,
    listen_flags,
    load_peer,
    print_values,
)
from paramserver.configfile import Loaded
from paramserver.console import (
    Signals,
    check_join,
    live,
    new_identity,
    read_secret,
    run_app,
    run_loop,
    say,
    start_logging,
)
from paramserver.errors import NotReady, ParamserverError, UserError
from paramserver.launch.lifeline import read_handover
from paramserver.peer import Peer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train neural networks on a cluster of peers, in OpenCL kernels.",
)
config_app = typer.Typer(no_args_is_help=True, help="Look at a recipe's configuration.")
app.add_typer(config_app, name="config")

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE|FILE", help="digits, iris, mnist, or a TOML or JSON file.")
]


@app.command()
def train(
    recipe: RecipeArgument,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    output: Annotated[
        Path | None, typer.Option(help="Folder for model, logs and result; under runs/ by default.")
    ] = None,
    join: Join = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights and order.")] = None,
    consistency: Annotated[str | None, typer.Option(help="bsp, ssp or asp.")] = None,
    staleness: Annotated[int | None, typer.Option(help="The bound of ssp, in clocks.")] = None,
    epochs: Annotated[int | None, typer.Option(help="How often each example is trained.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples a step.")] = None,
    peers: Annotated[int | None, typer.Option(help="Local peers with both roles.")] = None,
    shards: Annotated[int | None, typer.Option(help="Local peers that hold slices only.")] = None,
    workers: Annotated[int | None, typer.Option(help="Local peers that compute only.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, gpu, an index, a name.")] = None,
    data: Annotated[Path | None, typer.Option(help="The data's file or folder.")] = None,
    set_: Sets = None,
) -> None:
    """Train a recipe: on a local cluster, or with --join on a running one."""
    began = time.monotonic()
    name = Path(recipe).stem if recipe.endswith((".toml", ".json")) else recipe
    result = Result(run=name_run(_safe(name)), recipe=name)
    signals: list[Signals] = []
    try:
        flags = {
            "seed": seed,
            "consistency": consistency,
            "staleness": staleness,
            "train.epochs": epochs,
            "train.batch_size": batch_size,
            "cluster.peers": peers,
            "cluster.shards": shards,
            "cluster.workers": workers,
            "device.select": device,
            "data.path": str(data) if data is not None else None,
        }
        loaded = load_recipe(recipe, sets=set_ or (), flags=flags)
        check_join(join)
        _train(loaded, result, output, join, signals)
    except (ParamserverError, KernelError) as error:
        result.status = "failed"
        result.error = str(error)
        raise
    finally:
        result.total_seconds = time.monotonic() - began
        try:
            result.write()
        except NotReady as error:
            say(f"node: {error}")
        if json_:
            print(result.line(), flush=True)
        elif signals:
            _tell(result)
        for got in signals:
            got.reraise()
    if not json_:
        _tell(result)
    if result.status == "failed":
        raise _failed(result)


def _safe(name: str) -> str:
    return "".join(one if one.isalnum() or one in "._-" else "-" for one in name)[:64] or "run"


def _failed(result: Result) -> ParamserverError:
    error = ParamserverError(result.error or "the run failed")
    error.exit_code = result.exit_code  # type: ignore[misc]
    return error


def _train(
    loaded: Loaded[Recipe],
    result: Result,
    output: Path | None,
    join: str | None,
    signals: list[Signals],
) -> None:
    """Load the data, start or join a cluster, and follow the run."""
    recipe = loaded.config
    if join is None:
        info = choose(recipe.device.select)
        result.device = info.name
        say(f"device: {info}")
    dataset = load_dataset(recipe.data)
    model = Model.for_dataset(recipe.model, dataset)
    plan = Plan(recipe, dataset, model, result.run)
    folder = output if output is not None else Path("runs") / result.run
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the folder {folder}: {error.strerror}: give another with --output"
        ) from error
    if (folder / "result.json").exists():
        raise UserError(f"--output {folder}: holds the result of another run; give a new folder")
    result.output = str(folder)
    say(
        f"run {result.run}: {dataset!r}, {model.size:,} parameters, {recipe.consistency}, "
        f"{recipe.train.epochs} epochs"
    )

    async def main() -> None:
        drivers: list[Driver] = []

        me = asyncio.current_task()
        assert me is not None

        def asked(reason: str) -> None:
            say("stopping in good order; once more to stop at once")
            if any(driver.begun for driver in drivers):
                for driver in drivers:
                    driver.stop(reason)
            else:
                me.cancel()

        handler = Signals(asked)
        handler.install()
        progress = ProgressLines(say)
        try:
            if join is None:
                await train_locally(plan, result, folder, progress, drivers.append)
            else:
                await train_joined(plan, result, folder, progress, drivers.append, join)
        except asyncio.CancelledError:
            if handler.got is None:
                raise
            result.status, result.error = "stopped", "stopped before the run had begun"
        finally:
            if handler.got is not None:
                signals.append(handler)

    run_loop(main())


def _tell(result: Result) -> None:
    """Print a result for a person."""
    if result.accuracy is not None:
        print(f"test accuracy {result.accuracy:.4f}  test loss {result.test_loss or 0.0:.4f}")
    loss = f"{result.loss:.4f}" if result.loss is not None else "none"
    print(
        f"{result.status} after {result.epochs} epochs, {result.steps:,} steps, training loss {loss}"
    )
    print(
        f"{result.seconds:.1f} s of training, {result.samples_per_second:,.0f} examples/s "
        f"on {result.peers} peers ({result.device})"
    )
    if result.output is not None:
        model = Path(result.output) / MODEL_FILE
        print(f"model: {model}" if model.exists() else f"no model; output: {result.output}")


@app.command()
def start(
    join: Join = None,
    roles: Annotated[str, typer.Option(help="worker, or shard,worker for both.")] = "worker",
    name: Name = None,
    listen: Annotated[str | None, typer.Option(help="host:port to serve at.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, gpu, an index, a name.")] = None,
    secret_file: Annotated[
        Path | None, typer.Option(help="A file with the cluster's secret.")
    ] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Serve other machines without a secret.")
    ] = None,
    data_root: Annotated[
        Path | None,
        typer.Option(envvar="PARAMSERVER_DATA", help="This machine's folder of data sets."),
    ] = None,
    config: ConfigFile = None,
    set_: Sets = None,
    lifeline: Lifeline = None,
) -> None:
    """Start a peer that computes for the cluster's runs, until SIGTERM or Ctrl-C."""
    wanted = set(roles.split(","))
    if not wanted <= {"shard", "worker"} or "worker" not in wanted:
        raise UserError(
            f"--roles {roles}: worker or shard,worker; `paramserver start` has the role shard alone"
        )
    loaded = load_peer(
        config,
        set_,
        {
            **listen_flags(listen),
            "device.select": device,
            "cluster.secret_file": secret_file,
            "cluster.insecure": insecure,
        },
    )
    start_logging()
    secret = read_secret(loaded.config)
    if lifeline is not None:
        handover = read_handover(lifeline)
        join, secret = handover.join, bytes.fromhex(handover.secret)
    check_join(join)
    if join is None:
        raise UserError(
            "give --join host:port of a peer that hosts the coordinator "
            "(`paramserver start --embedded` starts one)"
        )
    select = loaded.config.device.select
    peer = Peer(
        loaded.config,
        new_identity(name),
        secret,
        shard="shard" in wanted,
        role=WorkerRole(select, data_root),
        join=join,
        open_engine=partial(open_engine, select),
    )
    signals = run_loop(live(peer, lifeline=lifeline, embedded=False))
    signals.reraise()


@config_app.command("check")
def config_check(recipe: RecipeArgument, set_: Sets = None) -> None:
    """Say whether a recipe is valid; one line for each fault."""
    load_recipe(recipe, sets=set_ or ())
    say("valid")


@config_app.command("show")
def config_show(recipe: RecipeArgument, set_: Sets = None) -> None:
    """Print every value of a recipe and where it came from."""
    print_values(load_recipe(recipe, sets=set_ or ()))


def main() -> None:
    """Run the command."""
    run_app(app, "node")
