"""The configuration that the server's side knows: cluster, device, status and training.

Models here are frozen, refuse unknown keys, and are strict: the text "3" is no number. What a
person writes as text (environment, command line) is parsed in `paramserver.configfile` before it
comes here. The recipe in `nodes` puts its model and data beside these sections.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    model_validator,
)
from pydantic_core import PydanticCustomError

from kernels.device.target_cpu import check_name
from kernels.errors import DeviceError
from paramserver.address import parse_address
from paramserver.schedule import Rate
from paramserver.spec import LONGEST_PERIOD, Rule, RuleName

Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Port = Annotated[int, Field(ge=0, le=65535)]
Text = Annotated[str, Field(min_length=1)]
Limit = Annotated[float, Field(ge=1e-30, le=1e30)]

LARGEST_BATCH = 1 << 20
MOST_PARTS = 65536
SESSION_TIMEOUT = 4.0
SESSION_SHARE = 0.4


def fault(key: str, text: str) -> PydanticCustomError:
    """Return the error to raise in a section's validator where one ``key`` of it is wrong.

    Plain ValueErrors of validators name the section only.
    """
    return PydanticCustomError("key_fault", "{text}", {"key": key, "text": text})


def _expand(value: object) -> object:
    return Path(value).expanduser() if isinstance(value, str) and value else value


FilePath = Annotated[Path, Strict(False), BeforeValidator(_expand)]


class Section(BaseModel):
    """A frozen, strict group of keys that refuses unknown ones."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=False
    )


def _ensemble(value: object) -> object:
    if isinstance(value, str):
        parse_address(value)
    return value


class ZooKeeperConfig(Section):
    """A ZooKeeper ensemble that peers meet at.

    ``address`` is host:port,host:port/path, as ZooKeeper's own clients take it. ``auth_file`` holds
    user:password (digest): what the cluster makes is then closed to everybody else. ``tls`` encrypts;
    ``ca_file`` has the certificates to trust instead of the system's, ``cert_file`` and ``key_file``
    are this peer's own.
    """

    address: Annotated[Text, BeforeValidator(_ensemble)] | None = None
    auth_file: FilePath | None = None
    tls: bool = False
    ca_file: FilePath | None = None
    cert_file: FilePath | None = None
    key_file: FilePath | None = None

    @model_validator(mode="after")
    def _check(self) -> ZooKeeperConfig:
        for key in ("ca_file", "cert_file", "key_file"):
            if getattr(self, key) is not None and not self.tls:
                raise fault("tls", f"must be true with {key}: nothing is encrypted without")
        if self.key_file is not None and self.cert_file is None:
            raise fault("cert_file", "missing: key_file needs it")
        return self


class ClusterConfig(Section):
    """How peers find each other, how many a local cluster starts, and how long anybody waits.

    ``peers`` is how many with both roles the launcher starts, 2 unless ``shards`` and ``workers``
    are given. ``deadline`` bounds any one request; a run that nobody works on, or that cannot be
    reached, ends after ``lost_after``. ``host`` and ``port`` are what a peer listens on (port 0: any
    free one), ``advertise`` the host name that it tells others instead. ``generation`` is the
    operator's: raised after what coordinates was wiped, it keeps terms growing.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = "local"
    peers: Annotated[int, Field(gt=0, le=1024)] | None = None
    shards: Annotated[int, Field(gt=0, le=1024)] | None = None
    workers: Annotated[int, Field(gt=0, le=1024)] | None = None
    replicas: Positive = 1
    min_workers: Positive = 1
    deadline: Seconds = 10.0
    lost_after: Seconds = 60.0
    session_timeout: Seconds = SESSION_TIMEOUT
    host: Text = "127.0.0.1"
    port: Port = 0
    advertise: Text | None = None
    secret_file: FilePath | None = None
    insecure: bool = False
    zookeeper: ZooKeeperConfig = Field(default_factory=ZooKeeperConfig)
    generation: Positive = 1

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        """Fill in the defaults that depend on other keys."""
        if not isinstance(values, dict):
            return values
        filled = dict(values)
        if all(filled.get(key) is None for key in ("peers", "shards", "workers")):
            filled["peers"] = 2
        deadline = filled.get("deadline")
        if "session_timeout" not in filled and isinstance(deadline, int | float):
            filled["session_timeout"] = max(min(SESSION_TIMEOUT, SESSION_SHARE * deadline), 1e-3)
        return filled

    @model_validator(mode="after")
    def _check(self) -> ClusterConfig:
        if self.peers is not None and (self.shards is not None or self.workers is not None):
            raise fault("peers", "give either peers, or shards and workers, not both")
        if self.shards is None and self.workers is not None:
            raise fault("shards", "missing: cluster.workers needs it")
        if self.workers is None and self.shards is not None:
            raise fault("workers", "missing: cluster.shards needs it")
        if self.replicas != 1:
            raise fault("replicas", "replication does not exist yet: must be 1")
        if self.session_timeout > self.deadline:
            raise fault(
                "session_timeout",
                f"must not exceed cluster.deadline ({self.deadline:g} s): a dead peer is to be "
                "noticed within it",
            )
        if not self.insecure and self.secret_file is None and not is_loopback(self.host):
            raise fault(
                "host",
                f"{self.host} is reachable from other machines and there is no secret: set "
                "cluster.secret_file, or cluster.insecure = true to do without",
            )
        return self

    @property
    def dedicated(self) -> bool:
        """Whether the local cluster starts shards and workers instead of peers with both roles."""
        return self.peers is None

    @property
    def shard_count(self) -> int:
        """How many processes of the local cluster hold slices."""
        return self.shards or self.peers or 0

    @property
    def worker_count(self) -> int:
        """How many processes of the local cluster compute."""
        return self.workers or self.peers or 0


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach what listens on ``host``; names are not looked up."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _target_cpu(name: str) -> str:
    try:
        return check_name(name)
    except DeviceError as error:
        raise ValueError(str(error).partition(" = ")[2]) from error


class DeviceConfig(Section):
    """What to compute on.

    ``select`` is "auto", an index, a part of a name, a type ("cpu", "gpu") or "numpy"; ``cores``
    the CPU cores that one worker uses, its share of the machine unless given. ``memory`` bounds what
    one worker's arrays take on an OpenCL device: bytes, or up to 1 a share of the device's memory.
    ``target_cpu`` is the CPU that PoCL compiles for, by a name that LLVM knows, or "as found"; unless
    given it is the level of the x86-64 psABI that this machine has. ``tune`` lets the first start on a
    kind of device for which no figures are shipped look for the best cuts of its products, for 10
    seconds at most; what it finds is kept.
    """

    select: Text = "auto"
    cores: Annotated[int, Field(gt=0, le=4096)] | None = None
    memory: Annotated[float, Field(gt=0)] | None = None
    target_cpu: Annotated[str, AfterValidator(_target_cpu)] | None = None
    tune: bool = True


class StatusConfig(Section):
    """Where a peer serves its status page and metrics; port 0 is any free one."""

    host: Text = "127.0.0.1"
    port: Port = 0


class EarlyStoppingConfig(Section):
    """When training ends before its epochs are over; it needs validation data, but for ``seconds``.

    After ``patience`` epochs whose validation ``metric`` was not better by more than ``threshold``,
    or after so many ``seconds`` of training.
    """

    patience: Positive | None = None
    threshold: Annotated[float, Field(ge=0)] = 0.0
    metric: Literal["loss", "accuracy"] = "loss"
    seconds: Seconds | None = None


class CheckpointConfig(Section):
    """How often a run is saved (``every`` so many seconds, and at the end), how many are kept."""

    every: Seconds = 60.0
    keep: Positive = 3


class TrainConfig(Section):
    """How to train.

    ``batch_size`` is the global minibatch of one clock in bsp, one push's minibatch otherwise; in
    the modes delta and average a clock or push covers ``period`` of them. ``parts`` cut a bsp
    clock's examples, one for each worker at the start unless given.

    ``rate`` is a number, a list of [update, rate] pairs, or a kind with its keys: "step" (start,
    factor, every), "exponential" (start, factor, every) or "cosine" (start, end, steps). It counts
    server updates, and grows to what it says over the first ``warmup`` of them.

    ``clip_value`` bounds each element of the mean gradient, and then ``clip_norm`` its L2 norm, on
    the worker before the gradient leaves: in bsp of each part, in delta and average of each local
    step. The norm of a whole clock's gradient is known to nobody before the shards have summed its
    parts, and each shard holds some slices of it only; with ``parts`` = 1 the part is the whole.

    The rule's numbers mean what its paper says: ``decay`` is RMSProp's, ``beta1`` and ``beta2``
    Adam's. ``weight_decay`` times the weights is added to the gradient, after clipping, and in adamw
    taken from the weights. In delta and average the rule runs on the workers, and its state begins
    at zero in each period: so the result depends on neither who computes nor on a resume.
    """

    batch_size: Annotated[int, Field(gt=0, le=LARGEST_BATCH)] = 128
    parts: Annotated[int, Field(gt=0, le=MOST_PARTS)] | None = None
    epochs: Annotated[int, Field(gt=0, le=1_000_000)] = 5
    period: Annotated[int, Field(gt=0, le=LONGEST_PERIOD)] = 1
    rule: RuleName = "momentum"
    rate: Rate = 0.1
    warmup: Annotated[int, Field(ge=0)] = 0
    clip_value: Limit | None = None
    clip_norm: Limit | None = None
    momentum: Fraction = 0.9
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    decay: Fraction = 0.99
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if self.parts is not None and self.parts > self.batch_size:
            raise fault("parts", f"must not exceed train.batch_size ({self.batch_size})")
        return self

    def update_rule(self) -> Rule:
        """Return the rule with its rate, as servers and workers take it."""
        return Rule(
            name=self.rule,
            rate=self.rate,
            warmup=self.warmup,
            momentum=self.momentum,
            beta1=self.beta1,
            beta2=self.beta2,
            decay=self.decay,
            epsilon=self.epsilon,
            weight_decay=self.weight_decay,
        )


class PeerConfig(Section):
    """What a peer that joins a cluster needs to know; the run's recipe comes from the cluster."""

    cluster: ClusterConfig = Field(default_factory=ClusterConfig)
    device: DeviceConfig = Field(default_factory=DeviceConfig)
    status: StatusConfig = Field(default_factory=StatusConfig)
