from typing import Any

import pytest
from pydantic import ValidationError

from paramserver.config import (
    ClusterConfig,
    DeviceConfig,
    PeerConfig,
    StatusConfig,
    TrainConfig,
    is_loopback,
)
from paramserver.slices import kernel_rule


def refused(section: type[Any], **values: object) -> str:
    with pytest.raises(ValidationError) as caught:
        section(**values)
    errors = caught.value.errors()
    assert len(errors) == 1
    key = (errors[0].get("ctx") or {}).get("key", ".".join(map(str, errors[0]["loc"])))
    return f"{key}: {errors[0]['msg']}"


def test_defaults_are_the_documented_ones() -> None:
    cluster, train = ClusterConfig(), TrainConfig()
    assert (cluster.peers, cluster.shards, cluster.workers) == (2, None, None)
    assert (cluster.replicas, cluster.min_workers, cluster.deadline) == (1, 1, 10.0)
    assert cluster.session_timeout == 4.0
    assert (train.batch_size, train.epochs, train.period) == (128, 5, 1)
    assert (train.rule, train.rate, train.parts) == ("momentum", 0.1, None)
    assert DeviceConfig().select == "auto"
    assert StatusConfig().port == 0


def test_topologies_exclude_each_other() -> None:
    dedicated = ClusterConfig(shards=2, workers=3)
    assert dedicated.dedicated
    assert (dedicated.shard_count, dedicated.worker_count) == (2, 3)
    both = ClusterConfig(peers=3)
    assert not both.dedicated
    assert (both.shard_count, both.worker_count) == (3, 3)
    assert "not both" in refused(ClusterConfig, peers=2, shards=1, workers=1)
    assert refused(ClusterConfig, shards=2) == "workers: missing: cluster.shards needs it"
    assert refused(ClusterConfig, workers=2) == "shards: missing: cluster.workers needs it"


@pytest.mark.parametrize("values", [{}, {"peers": 3}, {"shards": 1, "workers": 2}])
def test_a_dumped_cluster_is_read_again(values: dict[str, int]) -> None:
    cluster = ClusterConfig(**values)
    assert ClusterConfig.model_validate(cluster.model_dump(mode="json")) == cluster


def test_replication_is_refused_until_it_exists() -> None:
    assert refused(ClusterConfig, replicas=2).startswith("replicas: replication does not exist yet")


def test_the_session_follows_a_short_deadline_and_may_not_exceed_it() -> None:
    assert ClusterConfig(deadline=2.0).session_timeout == pytest.approx(0.8)
    assert refused(ClusterConfig, deadline=2.0, session_timeout=3.0).startswith("session_timeout:")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "trainer.example"])
def test_binding_beyond_loopback_needs_a_secret(host: str) -> None:
    assert refused(ClusterConfig, host=host).startswith(f"host: {host} is reachable")
    assert ClusterConfig(host=host, insecure=True).host == host
    assert ClusterConfig(host=host, secret_file="secret").secret_file is not None


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("192.168.1.1", False),
        ("host", False),
    ],
)
def test_loopback_is_told_without_a_lookup(host: str, inside: bool) -> None:
    assert is_loopback(host) is inside


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (TrainConfig, {"epochs": "3"}),
        (TrainConfig, {"epochs": 3.0}),
        (TrainConfig, {"epochs": True}),
        (TrainConfig, {"epochs": 0}),
        (TrainConfig, {"momentum": 1.0}),
        (TrainConfig, {"momentum": float("nan")}),
        (TrainConfig, {"period": 0}),
        (TrainConfig, {"clip_norm": 0.0}),
        (TrainConfig, {"clip_value": -1.0}),
        (TrainConfig, {"weight_decay": -0.1}),
        (TrainConfig, {"warmup": -1}),
        (TrainConfig, {"parts": 200}),
        (TrainConfig, {"rule": "adamax"}),
        (TrainConfig, {"epoch": 3}),
        (ClusterConfig, {"deadline": 0}),
        (ClusterConfig, {"deadline": float("inf")}),
        (ClusterConfig, {"port": 70000}),
        (ClusterConfig, {"name": "a/b"}),
        (ClusterConfig, {"insecure": 1}),
        (DeviceConfig, {"cores": 0}),
        (DeviceConfig, {"memory": 0}),
        (DeviceConfig, {"select": ""}),
        (PeerConfig, {"train": {}}),
    ],
)
def test_wrong_values_are_refused(section: type[Any], values: dict[str, object]) -> None:
    refused(section, **values)


def test_the_rule_takes_every_number() -> None:
    train = TrainConfig(
        rule="adam",
        rate=[[0, 0.1], [100, 0.01]],
        warmup=5,
        beta1=0.5,
        beta2=0.9,
        decay=0.8,
        epsilon=1e-6,
        momentum=0.3,
        weight_decay=0.02,
    )
    rule = train.update_rule()
    assert (rule.name, rule.beta1, rule.beta2) == ("adam", 0.5, 0.9)
    assert (rule.decay, rule.epsilon, rule.momentum) == (0.8, 1e-6, 0.3)
    assert (rule.rate, rule.warmup) == (((0, 0.1), (100, 0.01)), 5)
    assert kernel_rule(rule).weight_decay == 0.02
