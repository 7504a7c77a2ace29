"""The command ``node``: train a recipe, or compute for a cluster.

As in `paramserver.cli`, commands that need a peer import it themselves.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nodes import cli_model
from nodes.recipe import SUFFIXES, load_recipe
from nodes.training.progress import Progress, Show, open_progress
from nodes.training.result import BEST_FILE, MODEL_FILE, Result
from paramserver.cli import (
    ConfigFile,
    Join,
    Lifeline,
    Name,
    Sets,
    ZooKeeper,
    elsewhere,
    listen_flags,
    load_peer,
    print_values,
)
from paramserver.console import (
    Signals,
    check_join,
    hushed,
    interruptible,
    new_identity,
    read_secret,
    run_app,
    run_loop,
    say,
    start_logging,
)
from paramserver.errors import TryAgain, UserError
from paramserver.launch.children import tell_launcher
from paramserver.launch.lifeline import read_handover, wake_when_launcher_dies
from paramserver.phrases import counted

if TYPE_CHECKING:
    from nodes.training.session import Session

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train neural networks on a cluster of peers, in OpenCL kernels.",
)
config_app = typer.Typer(no_args_is_help=True, help="Look at a recipe's configuration.")
app.add_typer(config_app, name="config")
app.command()(cli_model.evaluate)
app.command()(cli_model.predict)

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE|FILE", help="digits, iris, mnist, or a TOML or JSON file.")
]


@app.command()
def train(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE|FILE", help="digits, iris, mnist, or a TOML or JSON file."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    output: Annotated[
        Path | None, typer.Option(help="Folder for model, logs and result; under runs/ by default.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on from this folder of a run or a checkpoint.")
    ] = None,
    join: Join = None,
    zookeeper: ZooKeeper = None,
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
    progress: Annotated[
        Show, typer.Option(help="auto draws in a terminal, and prints lines elsewhere.")
    ] = Show.AUTO,
    set_: Sets = None,
) -> None:
    """Train a recipe: on a local cluster, or on a running one with --join or --zookeeper."""
    from nodes.training.resume import recipe_of
    from nodes.training.session import Session, fresh_run, recording
    from paramserver.checkpoint import load_latest

    name = Path(recipe).stem if recipe and recipe.endswith(SUFFIXES) else recipe or "resumed"
    result = Result(run=fresh_run(name), recipe=name)
    signals: list[Signals] = []
    try:
        with recording(result), hushed(progress is Show.NONE):
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
                "cluster.zookeeper.address": zookeeper,
                "data.path": str(data) if data is not None else None,
            }
            if join is not None and zookeeper is not None:
                raise UserError("give either --join or --zookeeper, not both")
            if (recipe is None) == (resume is None):
                raise UserError("give either a RECIPE, or --resume with the folder of a run")
            checkpoint = None
            if resume is not None:
                checkpoint = load_latest(resume, say)
                config = recipe_of(checkpoint, set_ or (), flags)
                result.run, result.recipe = checkpoint.spec.name, config.name
            else:
                config = load_recipe(str(recipe), sets=set_ or (), flags=flags).config
            check_join(join)
            session = Session(result, output=output, join=join, checkpoint=checkpoint)
            with session:
                with interruptible():
                    session.prepare(config)
                run_loop(_follow(session, open_progress(progress), signals))
    finally:
        try:
            if json_:
                print(result.line(), flush=True)
            elif result.steps or any(one.got for one in signals):
                _tell(result)
        finally:
            for one in signals:  # also where nobody reads the result, as after a hang-up
                one.reraise()
    if result.status == "stopped":
        raise TryAgain(
            f"the run was stopped: {result.stopped_because}; go on with --resume {result.output}"
        )


async def _follow(session: Session, progress: Progress, signals: list[Signals]) -> None:
    """Run a session; a signal asks it to stop, and is found in ``signals``."""
    handler = Signals(session.stop, progress.close)
    signals.append(handler)
    handler.install()
    await session.run(progress)


def _tell(result: Result) -> None:
    """Print a result for a person."""
    if result.accuracy is not None:
        print(f"test accuracy {result.accuracy:.4f}  test loss {result.test_loss or 0.0:.4f}")
    elif result.test_loss is not None:
        print(f"test loss {result.test_loss:.4f}")
    if result.validation is not None and result.validation["best"] is not None:
        best = result.validation["best"]
        kept = result.output is not None and (Path(result.output) / BEST_FILE).exists()
        where = f" ({BEST_FILE})" if kept else ""
        print(f"best validation: loss {best['loss']:.4f} after epoch {best['epoch']}{where}")
    if result.stopped_because is not None and result.status == "done":
        print(result.stopped_because)
    loss = f"{result.loss:.4f}" if result.loss is not None else "none"
    print(
        f"{result.status} after {counted(result.epochs, 'epoch')}, {counted(result.steps, 'step')}, "
        f"training loss {loss}"
    )
    print(
        f"{result.seconds:.1f} s of training, {result.samples_per_second:,.0f} examples/s "
        f"on {counted(result.peers, 'peer')} ({result.device})"
    )
    if result.output is not None:
        model = Path(result.output) / MODEL_FILE
        print(f"model: {model}" if model.exists() else f"no model; output: {result.output}")
        if result.status == "stopped" and result.checkpoint is not None:
            print(f"go on with: node train --resume {result.output}")


@app.command()
def start(
    join: Join = None,
    zookeeper: ZooKeeper = None,
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
    if lifeline is not None:
        wake_when_launcher_dies()
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
            "cluster.zookeeper.address": zookeeper,
        },
    )
    start_logging()
    secret = read_secret(loaded.config)
    check_join(join)
    address = loaded.config.cluster.zookeeper.address
    if (join and zookeeper) or not (join or address or lifeline is not None):
        raise UserError(
            "give either --zookeeper host:port (cluster.zookeeper.address) to meet there, or --join "
            "host:port of a peer that hosts the coordinator (`paramserver start --embedded` starts "
            "one)"
        )
    device_config = loaded.config.device
    if device_config.cores is not None:
        # PoCL reads this once, when devices are first looked for.
        os.environ["POCL_MAX_PTHREAD_COUNT"] = str(device_config.cores)
    from kernels.engine import open_rules
    from nodes.training.role import WorkerRole
    from paramserver.peer import Peer
    from paramserver.serving import live

    if lifeline is not None:  # after the imports: the launcher has other things to do meanwhile
        handover = read_handover(lifeline)
        join, secret = handover.join, bytes.fromhex(handover.secret)
    peer = Peer(
        elsewhere(loaded.config) if join is not None else loaded.config,
        new_identity(name),
        secret,
        shard="shard" in wanted,
        role=WorkerRole(
            device_config.select,
            data_root,
            memory=device_config.memory,
            target=device_config.target_cpu,
            tune=device_config.tune,
            tell=tell_launcher,
        ),
        join=join,
        open_rules=partial(open_rules, device_config.select, device_config.target_cpu),
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
