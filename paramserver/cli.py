"""The command ``paramserver``: shards, spares, configuration and the doctor.

What makes a peer takes half a second to import: commands that need it do so themselves, for `--help`, a
fault in a configuration and the like are to be said at once.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paramserver import __version__
from paramserver.config import PeerConfig, ZooKeeperConfig
from paramserver.configfile import Loaded, load, read_document, show
from paramserver.console import (
    check_join,
    new_identity,
    read_secret,
    run_app,
    run_loop,
    say,
    start_logging,
)
from paramserver.errors import (
    NotReady,
    Refused,
    RequestFailed,
    UnknownTable,
    Unsupported,
    UserError,
)
from paramserver.launch.lifeline import read_handover, wake_when_launcher_dies
from paramserver.launch.presence import the_run

if TYPE_CHECKING:
    from paramserver.operate import Operator

log = logging.getLogger(__name__)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Hold slices of a model's weights, and serve them to workers.",
)
config_app = typer.Typer(no_args_is_help=True, help="Look at a peer's configuration.")
app.add_typer(config_app, name="config")

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="A TOML or JSON file: cluster, device, status.")
]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="One value, such as cluster.deadline=5.")
]
Join = Annotated[str | None, typer.Option(help="host:port of a peer that hosts the coordinator.")]
ZooKeeper = Annotated[
    str | None, typer.Option(help="host:port,host:port/path of a ZooKeeper to meet at.")
]
Name = Annotated[str | None, typer.Option(help="This peer's name; made up unless given.")]
LocalRun = Annotated[
    str | None, typer.Option("--run", help="The local run's name, where there are several.")
]
Secret = Annotated[Path | None, typer.Option(help="A file with the cluster's secret.")]
Lifeline = Annotated[int | None, typer.Option(hidden=True)]


def load_peer(
    file: Path | None, sets: list[str] | None, flags: dict[str, object]
) -> Loaded[PeerConfig]:
    """Load a peer's configuration from its layers."""
    document = read_document(file) if file is not None else None
    return load(
        PeerConfig,
        document=document,
        name=str(file or "configuration"),
        sets=sets or (),
        flags=flags,
    )


@app.command()
def start(
    join: Join = None,
    zookeeper: ZooKeeper = None,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Host the coordinator instead of joining one.")
    ] = False,
    roles: Annotated[str, typer.Option(help="shard, or none for a spare that may lead.")] = "shard",
    name: Name = None,
    listen: Annotated[str | None, typer.Option(help="host:port to serve at.")] = None,
    secret_file: Secret = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Serve other machines without a secret.")
    ] = None,
    config: ConfigFile = None,
    set_: Sets = None,
    lifeline: Lifeline = None,
) -> None:
    """Start a peer that holds slices (or a spare), until SIGTERM or Ctrl-C."""
    if lifeline is not None:
        wake_when_launcher_dies()
    if roles not in ("shard", "none"):
        raise UserError(f"--roles {roles}: shard or none; `node start` has the role worker")
    loaded = load_peer(
        config,
        set_,
        {
            **listen_flags(listen),
            "cluster.secret_file": secret_file,
            "cluster.insecure": insecure,
            "cluster.zookeeper.address": zookeeper,
        },
    )
    start_logging()
    secret = read_secret(loaded.config)
    check_join(join)
    if [join is not None, zookeeper is not None, embedded].count(True) > 1 or not (
        join or embedded or loaded.config.cluster.zookeeper.address or lifeline is not None
    ):
        raise UserError(
            "give one of --zookeeper host:port (cluster.zookeeper.address) to meet there, --join "
            "host:port of a peer that hosts the coordinator, or --embedded to host it here"
        )
    from kernels.engine import open_rules
    from paramserver.peer import Peer
    from paramserver.serving import live

    if lifeline is not None:  # after the imports: the launcher has other things to do meanwhile
        handover = read_handover(lifeline)
        join, secret = handover.join, bytes.fromhex(handover.secret)
    peer = Peer(
        elsewhere(loaded.config) if join is not None or embedded else loaded.config,
        new_identity(name),
        secret,
        shard=roles == "shard",
        join=join,
        open_rules=partial(
            open_rules, loaded.config.device.select, loaded.config.device.target_cpu
        ),
    )
    signals = run_loop(live(peer, lifeline=lifeline, embedded=embedded))
    signals.reraise()


def elsewhere(config: PeerConfig) -> PeerConfig:
    """Return a configuration without its ZooKeeper: the command line says where to meet others."""
    cluster = config.cluster.model_copy(update={"zookeeper": ZooKeeperConfig()})
    return config.model_copy(update={"cluster": cluster})


def listen_flags(listen: str | None) -> dict[str, object]:
    """Return ``--listen host:port`` as configuration flags."""
    if listen is None:
        return {}
    host, colon, port = listen.rpartition(":")
    if not (colon and host and port.isdigit()):
        raise UserError(f"--listen {listen}: write it as host:port, such as 0.0.0.0:7000")
    return {"cluster.host": host, "cluster.port": int(port)}


@config_app.command("check")
def config_check(config: ConfigFile = None, set_: Sets = None) -> None:
    """Say whether a configuration is valid; one line for each fault."""
    load_peer(config, set_, {})
    say("valid")


@config_app.command("show")
def config_show(config: ConfigFile = None, set_: Sets = None) -> None:
    """Print every value and where it came from."""
    print_values(load_peer(config, set_, {}))


def print_values(loaded: Loaded[Any]) -> None:
    """Print a configuration as aligned lines: key, value, origin."""
    rows = show(loaded)
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for key, value, origin in rows:
        print(f"{key:<{widths[0]}}  {value:<{widths[1]}}  {origin}")


@config_app.command("get")
def config_get(
    run: Annotated[str | None, typer.Argument(help="The run's name; else all are listed.")] = None,
    join: Join = None,
    zookeeper: ZooKeeper = None,
    secret_file: Secret = None,
    config: ConfigFile = None,
    set_: Sets = None,
) -> None:
    """Print the configuration of a run as the cluster has it, as JSON."""
    _one_place(join, zookeeper)
    flags: dict[str, object] = {
        "cluster.secret_file": secret_file,
        "cluster.zookeeper.address": zookeeper,
    }
    loaded = load_peer(config, set_, flags)
    cluster = loaded.config.cluster
    if join is None and cluster.zookeeper.address is None:
        raise UserError(
            "give --zookeeper host:port (cluster.zookeeper.address), or --join host:port of a peer "
            "that hosts the coordinator"
        )
    secret = read_secret(loaded.config)

    from paramserver.meeting import looking_in
    from paramserver.transport.connection import Identity

    async def look() -> dict[str, Any]:
        me = new_identity(None)
        identity = Identity(cluster.name, me.name, me.incarnation, "client")
        async with looking_in(cluster, join, identity, secret) as coordinator:
            return await coordinator.configs()

    found = run_loop(look())
    if run is None:
        print("".join(f"{name}\n" for name in sorted(found)), end="")
        if not found:
            say(f"cluster {cluster.name} has no run")
    elif run in found:
        print(json.dumps(found[run], indent=2))
    else:
        there = ", ".join(sorted(found)) or "none"
        raise UserError(
            f"cluster {cluster.name} has no configuration of a run {run!r}; there is: {there}"
        )


@app.command()
def doctor(
    device: Annotated[str | None, typer.Option(help="Examine this device only.")] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Search for the best cuts of products instead.")
    ] = False,
) -> None:
    """Try every device, kernel family and the network of this machine, and say what is wrong."""
    from paramserver.doctor import examine, tune_devices  # what they measure with imports slowly

    raise SystemExit(run_loop((tune_devices if tune else examine)(device, print)))


@app.command()
def checkpoint(
    local: LocalRun = None,
    join: Join = None,
    zookeeper: ZooKeeper = None,
    secret_file: Secret = None,
    config: ConfigFile = None,
    set_: Sets = None,
) -> None:
    """Have the run under way save a checkpoint: the local one unless told where the cluster meets."""

    async def ask() -> str:
        async with _operator(local, join, zookeeper, secret_file, config, set_) as run:
            say(f"run {run.run}")
            return await run.checkpoint()

    print(run_loop(ask()))


@app.command("set")
def set_value(
    assignment: Annotated[str, typer.Argument(help="train.batch_size=N")],
    local: LocalRun = None,
    join: Join = None,
    zookeeper: ZooKeeper = None,
    secret_file: Secret = None,
    config: ConfigFile = None,
    set_: Sets = None,
) -> None:
    """Change a value of the run under way: train.batch_size, from the next clock or lease on."""
    key, equals, text = assignment.partition("=")
    if key != "train.batch_size" or not equals:
        raise UserError(
            f"{assignment}: only train.batch_size can change while a run goes on; write "
            "train.batch_size=N"
        )
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise UserError(f"{assignment}: must be a whole number above 0")

    async def change() -> None:
        async with _operator(local, join, zookeeper, secret_file, config, set_) as run:
            await run.set_batch_size(int(text))
            say(f"run {run.run}: {key} = {int(text)} from the next clock or lease on")

    run_loop(change())


@contextlib.asynccontextmanager
async def _operator(
    local: str | None,
    join: str | None,
    zookeeper: str | None,
    secret_file: Path | None,
    config: Path | None,
    sets: list[str] | None,
) -> AsyncIterator[Operator]:
    """Connect to the cluster at ``join`` or a ZooKeeper, or to that of the ``local`` run."""
    from paramserver.operate import operator, run_table_of

    _one_place(join, zookeeper, local)
    flags: dict[str, object] = {
        "cluster.secret_file": secret_file,
        "cluster.zookeeper.address": zookeeper,
    }
    loaded = load_peer(config, sets, flags)
    cluster = loaded.config.cluster
    if join is not None:
        address, name, secret = join, cluster.name, read_secret(loaded.config)
    elif local is None and cluster.zookeeper.address is not None:
        name, secret = cluster.name, read_secret(loaded.config)
        address = await run_table_of(cluster, secret)
    else:
        here = the_run(local)
        address, name, secret = here.address, here.cluster, bytes.fromhex(here.secret)
    try:
        async with operator(
            address, cluster=name, secret=secret, deadline=cluster.deadline
        ) as found:
            yield found
    except (RequestFailed, UnknownTable, Unsupported) as error:
        raise NotReady(str(error)) from error
    except Refused as error:
        raise UserError(str(error)) from error


def _one_place(join: str | None, zookeeper: str | None, local: str | None = None) -> None:
    """Refuse to look in two places at once."""
    check_join(join)
    if [join, zookeeper, local].count(None) < 2:
        raise UserError("give one of --run, --join and --zookeeper: they name different clusters")


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the command itself."""


def main() -> None:
    """Run the command."""
    run_app(app, "paramserver")
